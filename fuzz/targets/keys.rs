//! See [`atoll_storage::rows::fuzzing::keys`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| atoll_storage::rows::fuzzing::keys(data));
