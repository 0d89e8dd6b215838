//! Any bytes as a chunked body: no panic, the same result in whatever pieces they arrive, and never more than the limit.

#![no_main]

use ipmi_sidecar::http::body::{Body, Framing, MAX_BODY};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (piece, bytes) = input;
    let decode = |piece: usize| {
        let mut body = Body::new(Framing::Chunked).expect("it has no length yet");
        let error = bytes.chunks(piece).find_map(|piece| body.take(piece).err());
        (error, body.is_complete(), body.into_bytes())
    };
    let (error, is_complete, whole) = decode(usize::MAX);
    let (error_in_pieces, is_complete_in_pieces, in_pieces) = decode(usize::from(piece).max(1));
    assert_eq!((error, is_complete), (error_in_pieces, is_complete_in_pieces));
    assert!(whole.len() as u64 <= MAX_BODY && whole.len() <= bytes.len());
    if error.is_none() {
        assert_eq!(whole, in_pieces);
        // What stands behind the end changes nothing.
        if is_complete {
            let mut longer = Body::new(Framing::Chunked).expect("it has no length yet");
            longer.take(&[bytes, b"5\r\nhello\r\n"].concat()).expect("the end has been read");
            assert_eq!(longer.into_bytes(), whole);
        }
    }
});
