#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nm_proxy::targets::proxy_protocol(bytes));
