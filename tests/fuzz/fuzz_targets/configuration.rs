#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| rakit_fuzz::targets::configuration(input));
