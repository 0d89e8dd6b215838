//! A request's body: where it ends (RFC 9112, 6.3), and how it is decoded from bytes in any pieces. Pure.

use super::head::MAX_HEAD;

/// A webhook's body: Alertmanager sends about 1 KiB an alert.
pub const MAX_BODY: u64 = 64 * 1024;

/// How many hexadecimal digits a chunk's size may have. Leading zeros are allowed (RFC 9112, 7.1); a `u64` has 16.
const MAX_DIGITS: u8 = 16;

/// How a request says where its body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes; none without a `Content-Length`.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// Why a body is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    TooLarge,
    /// The remedy: what was expected.
    Malformed(&'static str),
}

use BodyError::{Malformed, TooLarge};

/// A body that arrives, at most `MAX_BODY` bytes of it.
#[derive(Debug)]
pub struct Body {
    bytes: Vec<u8>,
    state: State,
    /// Bytes of chunk extensions and trailers, which are read and dropped. Together they may have as many as a head.
    dropped: usize,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Bytes up to the `Content-Length`.
    Length {
        left: u64,
    },
    /// A chunk's size. So many digits of it have come.
    Size {
        digits: u8,
        size: u64,
    },
    /// White space behind the size, which only an extension may follow.
    Space {
        size: u64,
    },
    Extension {
        size: u64,
    },
    /// The line feed behind the size.
    SizeEnd {
        size: u64,
    },
    Data {
        left: u64,
    },
    /// The carriage return and the line feed behind a chunk's data.
    DataCr,
    DataLf,
    /// A trailer line, or the empty line that ends the body.
    Trailer {
        is_empty: bool,
    },
    TrailerEnd {
        is_empty: bool,
    },
    Complete,
}

impl Body {
    /// # Errors
    /// `TooLarge` where the length says so.
    pub fn new(framing: Framing) -> Result<Self, BodyError> {
        let state = match framing {
            Framing::Length(0) => State::Complete,
            Framing::Length(length) if length > MAX_BODY => return Err(TooLarge),
            Framing::Length(left) => State::Length { left },
            Framing::Chunked => State::Size { digits: 0, size: 0 },
        };
        Ok(Self { bytes: Vec::new(), state, dropped: 0 })
    }

    pub fn is_complete(&self) -> bool {
        self.state == State::Complete
    }

    /// The decoded bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Takes the next bytes. Bytes behind the end are no part of the body, and are dropped.
    ///
    /// # Errors
    /// `TooLarge`, or `Malformed` for bytes that RFC 9112, 7.1, does not allow.
    pub fn take(&mut self, mut bytes: &[u8]) -> Result<(), BodyError> {
        while let [first, rest @ ..] = bytes
            && !self.is_complete()
        {
            bytes = match self.state {
                State::Length { left } => {
                    let (own, behind) = split(bytes, left);
                    let left = left - own.len() as u64;
                    self.state = if left == 0 { State::Complete } else { State::Length { left } };
                    self.keep(own, behind)?
                }
                State::Data { left } => {
                    let (own, behind) = split(bytes, left);
                    let left = left - own.len() as u64;
                    self.state = if left == 0 { State::DataCr } else { State::Data { left } };
                    self.keep(own, behind)?
                }
                _ => {
                    self.state = self.step(*first)?;
                    rest
                }
            };
        }
        Ok(())
    }

    fn keep<'a>(&mut self, own: &[u8], behind: &'a [u8]) -> Result<&'a [u8], BodyError> {
        if (self.bytes.len() + own.len()) as u64 > MAX_BODY {
            return Err(TooLarge);
        }
        self.bytes.extend_from_slice(own);
        Ok(behind)
    }

    /// One byte of what stands around the data of chunks.
    fn step(&mut self, byte: u8) -> Result<State, BodyError> {
        Ok(match (self.state, byte) {
            (State::Size { digits: 1.., size } | State::Extension { size }, b'\r') => State::SizeEnd { size },
            (State::Size { digits: 1.., size } | State::Space { size }, b';') => State::Extension { size },
            (State::Size { digits: 1.., size } | State::Space { size }, b' ' | b'\t') => {
                State::Space { size }
            }
            (State::Size { digits, size }, _) => {
                let digit = char::from(byte).to_digit(16).filter(|_| digits < MAX_DIGITS);
                let digit = digit.ok_or(Malformed("expected a chunk's size in hexadecimal digits"))?;
                // With at most 16 digits, none is lost.
                State::Size { digits: digits + 1, size: size << 4 | u64::from(digit) }
            }
            (State::Trailer { is_empty }, b'\r') => State::TrailerEnd { is_empty },
            (State::Extension { .. }, _) => self.drop(byte, self.state)?,
            (State::Trailer { .. }, _) => self.drop(byte, State::Trailer { is_empty: false })?,
            (State::SizeEnd { size: 0 } | State::TrailerEnd { is_empty: false }, b'\n') => {
                State::Trailer { is_empty: true }
            }
            (State::SizeEnd { size }, b'\n') if size > MAX_BODY => return Err(TooLarge),
            (State::SizeEnd { size }, b'\n') => State::Data { left: size },
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size { digits: 0, size: 0 },
            (State::TrailerEnd { is_empty: true }, b'\n') => State::Complete,
            (State::Space { .. }, _) => {
                return Err(Malformed("expected nothing behind a chunk's size but extensions"));
            }
            _ => {
                return Err(Malformed(
                    "expected CR LF behind each chunk, each chunk's size and each trailer",
                ));
            }
        })
    }

    fn drop(&mut self, byte: u8, next: State) -> Result<State, BodyError> {
        self.dropped += 1;
        if byte.is_ascii_control() && byte != b'\t' {
            return Err(Malformed("expected chunk extensions and trailers without control characters"));
        }
        if self.dropped > MAX_HEAD {
            return Err(Malformed("expected at most 8 KiB of chunk extensions and trailers"));
        }
        Ok(next)
    }
}

/// The first `most` bytes, and those behind them.
fn split(bytes: &[u8], most: u64) -> (&[u8], &[u8]) {
    bytes.split_at(usize::try_from(most).map_or(bytes.len(), |most| most.min(bytes.len())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The body, if it is complete, when it comes in pieces of this size.
    fn decode(framing: Framing, bytes: &[u8], piece: usize) -> Result<Option<String>, BodyError> {
        let mut body = Body::new(framing)?;
        bytes.chunks(piece).try_for_each(|piece| body.take(piece))?;
        Ok(body.is_complete().then(|| String::from_utf8(body.into_bytes()).unwrap()))
    }

    #[test]
    fn a_body_ends_where_its_framing_says_in_whatever_pieces() {
        let long = format!("1;{}\r\na\r\n0\r\n\r\n", "e".repeat(MAX_HEAD));
        let trailers = format!("0\r\nA: {}\r\n\r\n", "t".repeat(MAX_HEAD - 3));
        for (framing, text, expected) in [
            (Framing::Length(0), "", Ok(Some(""))),
            (Framing::Length(4), "1234GET", Ok(Some("1234"))),
            (Framing::Length(4), "123", Ok(None)),
            (Framing::Chunked, "0\r\n\r\n", Ok(Some(""))),
            (Framing::Chunked, "2\r\n{}\r\n0\r\n\r\nGET /", Ok(Some("{}"))),
            (Framing::Chunked, "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", Ok(Some("abcde"))),
            (Framing::Chunked, "00000000000000A\r\n0123456789\r\n000\r\n\r\n", Ok(Some("0123456789"))),
            (Framing::Chunked, "2;a=b; c=\"d;e\"\r\nab\r\n0;x\r\nA: b\r\nC: d\r\n\r\n", Ok(Some("ab"))),
            (Framing::Chunked, "2 \t; a\r\nab\r\n0\r\n\r\n", Ok(Some("ab"))),
            (Framing::Chunked, "2\r\n\r\n\r\n0\r\n\r\n", Ok(Some("\r\n"))),
            (Framing::Chunked, &long, Ok(Some("a"))),
            (Framing::Chunked, &trailers, Ok(Some(""))),
            (Framing::Chunked, "0\r\n", Ok(None)),
            (Framing::Chunked, "0\r\nA: b\r\n", Ok(None)),
            (Framing::Chunked, "", Ok(None)),
        ] {
            for piece in [1, 2, 3, 7, 10_000] {
                let decoded = decode(framing, text.as_bytes(), piece);
                assert_eq!(decoded, expected.map(|body| body.map(str::to_owned)), "{text:?} by {piece}");
            }
        }
    }

    #[test]
    fn chunks_that_are_refused() {
        let long = format!("1;{}\r\na\r\n0\r\n\r\n", "e".repeat(MAX_HEAD + 1));
        let trailers = format!("0\r\nA: {}\r\nB: c\r\n\r\n", "t".repeat(MAX_HEAD));
        for text in [
            "\r\n",
            "\n",
            "x\r\n",
            "-1\r\n",
            "+1\r\n",
            "0x1\r\na",
            " 1\r\na",
            "1 \r\na",
            "1 a\r\na",
            "1\na\n0\n\n",
            "1\r\na\n",
            "1\r\nab",
            "1\r\na\r\n\r\n",
            "1\ra",
            "1;a\nb\r\n",
            "1;a\0\r\n",
            "0\r\nA: b\n\r\n",
            "0\r\nA\u{7}: b\r\n",
            "0\r\n\n",
            "00000000000000001\r\n",
            "fffffffffffffffff\r\n",
            &long,
            &trailers,
        ] {
            let refused = decode(Framing::Chunked, text.as_bytes(), 1);
            assert!(matches!(refused, Err(Malformed(_))), "{text:?}: {refused:?}");
        }
    }

    #[test]
    fn a_body_of_more_than_64_kib_is_too_large() {
        let most = usize::try_from(MAX_BODY).unwrap();
        let chunks = |sizes: &[usize]| {
            let chunk = |size: &usize| format!("{size:x}\r\n{}\r\n", "x".repeat(*size));
            sizes.iter().map(chunk).collect::<String>() + "0\r\n\r\n"
        };
        for (text, is_too_large) in [
            (chunks(&[most]), false),
            (chunks(&[most + 1]), true),
            (chunks(&[most, 1]), true),
            (chunks(&[most / 2, most / 2]), false),
            ("ffffffffffffffff\r\n".to_owned(), true),
        ] {
            let refused = decode(Framing::Chunked, text.as_bytes(), 5_000) == Err(TooLarge);
            assert_eq!(refused, is_too_large, "{}", &text[..20]);
        }
        assert_eq!(Body::new(Framing::Length(MAX_BODY + 1)).map(drop), Err(TooLarge));
    }

    proptest! {
        #[test]
        fn what_was_cut_into_chunks_comes_out_whole(
            body in prop::collection::vec(any::<u8>(), 0..400),
            cuts in prop::collection::vec(1_usize..40, 0..40),
            piece in 1_usize..50,
        ) {
            let mut text = Vec::new();
            let mut rest = &body[..];
            for cut in cuts.into_iter().chain([body.len()]) {
                let (chunk, behind) = rest.split_at(cut.min(rest.len()));
                if !chunk.is_empty() {
                    text.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
                    text.extend([chunk, b"\r\n"].concat());
                }
                rest = behind;
            }
            text.extend(b"0\r\n\r\n");
            let mut decoded = Body::new(Framing::Chunked).unwrap();
            text.chunks(piece).try_for_each(|piece| decoded.take(piece)).unwrap();
            prop_assert!(decoded.is_complete());
            prop_assert_eq!(decoded.into_bytes(), body);
        }

        #[test]
        fn any_bytes_are_a_body_or_an_error_and_never_too_much(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut body = Body::new(Framing::Chunked).unwrap();
            let _ = body.take(&bytes);
            prop_assert!(body.into_bytes().len() <= bytes.len());
        }
    }
}
