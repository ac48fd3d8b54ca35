//! See [`atoll_front::fuzzing::messages`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| atoll_front::fuzzing::messages(data));
