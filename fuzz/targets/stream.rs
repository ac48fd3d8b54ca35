//! See [`atoll_front::fuzzing::stream`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| atoll_front::fuzzing::stream(data));
