//! A process of its own, so that no other test allocates meanwhile.
#![cfg(all(target_os = "linux", target_env = "gnu"))]

fn mapped_bytes() -> usize {
    // SAFETY: it takes nothing and returns plain numbers.
    unsafe { libc::mallinfo2() }.hblkhd
}

#[test]
fn large_memory_goes_back_to_the_system_however_often_it_was_freed_before() {
    assert!(matchtape_storage::return_large_memory());
    for _ in 0..3 {
        let before = mapped_bytes();
        let large = std::hint::black_box(vec![1u8; 8 << 20]);
        assert!(mapped_bytes() >= before + large.len(), "mapped for itself");
        drop(large);
        assert_eq!(mapped_bytes(), before, "and given back");
    }
}
