//! See [`atoll_front::fuzzing::parameter`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| atoll_front::fuzzing::parameter(data));
