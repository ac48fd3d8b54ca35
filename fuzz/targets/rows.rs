//! See [`atoll_storage::rows::fuzzing::rows`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| atoll_storage::rows::fuzzing::rows(data));
