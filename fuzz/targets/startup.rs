//! See [`atoll_front::fuzzing::startup`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| atoll_front::fuzzing::startup(data));
