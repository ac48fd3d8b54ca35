//! Messages from clients: framing and decoding (PostgreSQL's protocol 3.0, chapter "Message Formats").
//!
//! Invariant: bytes come from outside. A frame's length is checked against a limit before anything is reserved for it, every
//! field is read within its frame, and no input panics. An error inside a frame leaves the stream at the next frame.

use crate::encode::Format;
use crate::params::utf8;
use atoll_model::{Error, ErrorKind, Result};
use bytes::{Buf, Bytes, BytesMut};

/// What a broken length or an unknown message type gives: the stream cannot be followed any further.
pub(crate) fn violation(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::ProtocolViolation, message.into())
}

/// One message: its type and its body.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) tag: u8,
    pub(crate) body: Bytes,
}

/// Cuts the next frame off the buffer. `None`: it is not complete yet.
///
/// # Errors
/// 08P01 or 54000: the connection cannot go on.
pub(crate) fn frame(buffer: &mut BytesMut, limit: usize) -> Result<Option<Frame>> {
    let &[tag, a, b, c, d, ..] = &buffer[..] else { return Ok(None) };
    if !is_frontend_tag(tag) {
        return Err(violation(format!("invalid frontend message type {tag}")));
    }
    let len = body_length([a, b, c, d], limit)?;
    if buffer.len() < 5 + len {
        return Ok(None);
    }
    buffer.advance(5);
    Ok(Some(Frame { tag, body: buffer.split_to(len).freeze() }))
}

/// Cuts the next untyped packet (startup, cancel, SSL request) off the buffer.
///
/// # Errors
/// As [`frame`].
pub(crate) fn startup_packet(buffer: &mut BytesMut) -> Result<Option<Bytes>> {
    /// PostgreSQL's `MAX_STARTUP_PACKET_LENGTH`.
    const LIMIT: usize = 10_000;
    let &[a, b, c, d, ..] = &buffer[..] else { return Ok(None) };
    let len = body_length([a, b, c, d], LIMIT).map_err(|_| violation("invalid length of startup packet"))?;
    if buffer.len() < 4 + len {
        return Ok(None);
    }
    buffer.advance(4);
    Ok(Some(buffer.split_to(len).freeze()))
}

/// Bytes that the frame at the front still lacks, as far as it can be told.
pub(crate) fn missing(buffer: &BytesMut, limit: usize) -> usize {
    match &buffer[..] {
        &[_, a, b, c, d, ..] => {
            body_length([a, b, c, d], limit).map_or(0, |len| (5 + len).saturating_sub(buffer.len()))
        }
        _ => 0,
    }
}

/// The length field counts itself.
fn body_length(field: [u8; 4], limit: usize) -> Result<usize> {
    let len = i32::from_be_bytes(field);
    let body =
        usize::try_from(len).ok().and_then(|n| n.checked_sub(4)).ok_or_else(|| violation("invalid message length"))?;
    if body > limit {
        return Err(Error::new(
            ErrorKind::ProgramLimit,
            format!("a message of {body} bytes exceeds the limit of {limit}"),
        )
        .hint("Raise max_message_bytes, or send less at once."));
    }
    Ok(body)
}

fn is_frontend_tag(tag: u8) -> bool {
    matches!(tag, b'B' | b'C' | b'D' | b'E' | b'F' | b'H' | b'P' | b'Q' | b'S' | b'X' | b'c' | b'd' | b'f' | b'p')
}

/// A statement or a portal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    Statement,
    Portal,
}

/// A decoded message; text and values lie in the frame.
#[derive(Debug)]
pub(crate) enum Message<'a> {
    Query(&'a str),
    Parse {
        name: &'a str,
        sql: &'a str,
        types: Vec<u32>,
    },
    Bind(Bind<'a>),
    Describe(Target, &'a str),
    Execute {
        portal: &'a str,
        max_rows: usize,
    },
    Close(Target, &'a str),
    Flush,
    Sync,
    Terminate,
    CopyData(&'a [u8]),
    CopyDone,
    CopyFail(&'a str),
    /// Password or SASL answer: read only while authenticating.
    Password,
    FunctionCall,
}

/// Parameters of a statement, as sent.
#[derive(Debug)]
pub(crate) struct Bind<'a> {
    pub(crate) portal: &'a str,
    pub(crate) statement: &'a str,
    pub(crate) formats: Formats,
    pub(crate) values: Vec<Option<&'a [u8]>>,
    pub(crate) result_formats: Formats,
}

/// Format codes: none (all text), one for all, or one each.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Formats {
    All(Format),
    Each(Vec<Format>),
}

impl Formats {
    /// The format of a column or parameter.
    pub(crate) fn of(&self, index: usize) -> Format {
        match self {
            Formats::All(format) => *format,
            Formats::Each(formats) => formats.get(index).copied().unwrap_or(Format::Text),
        }
    }

    /// Whether there is a format for each of so many.
    pub(crate) fn fits(&self, count: usize) -> bool {
        match self {
            Formats::All(_) => true,
            Formats::Each(formats) => formats.len() == count,
        }
    }

    /// How many codes were given one by one.
    pub(crate) fn len(&self) -> usize {
        match self {
            Formats::All(_) => 1,
            Formats::Each(formats) => formats.len(),
        }
    }
}

/// Reads fields off the front of a frame's body.
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(body: &'a [u8]) -> Self {
        Fields { rest: body }
    }

    pub(crate) fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let (head, tail) =
            self.rest.split_at_checked(n).ok_or_else(|| violation("insufficient data left in message"))?;
        self.rest = tail;
        Ok(head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16> {
        let b = self.take(2)?;
        Ok(u16::from_be_bytes([b[0], b[1]]))
    }

    pub(crate) fn i32(&mut self) -> Result<i32> {
        let b = self.take(4)?;
        Ok(i32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    }

    /// A text that ends with a NUL.
    pub(crate) fn text(&mut self) -> Result<&'a str> {
        let end = memchr::memchr(0, self.rest).ok_or_else(|| violation("invalid string in message"))?;
        let text = self.take(end)?;
        self.take(1)?;
        utf8(text)
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn formats(&mut self) -> Result<Formats> {
        let count = usize::from(self.u16()?);
        let bytes = self.take(count * 2)?;
        let mut codes = bytes.chunks_exact(2).map(|b| match u16::from_be_bytes([b[0], b[1]]) {
            0 => Ok(Format::Text),
            1 => Ok(Format::Binary),
            other => Err(Error::new(ErrorKind::InvalidParameterValue, format!("unsupported format code: {other}"))),
        });
        match count {
            0 => Ok(Formats::All(Format::Text)),
            1 => Ok(Formats::All(codes.next().unwrap_or(Ok(Format::Text))?)),
            _ => Ok(Formats::Each(codes.collect::<Result<_>>()?)),
        }
    }

    fn target(&mut self) -> Result<Target> {
        match self.u8()? {
            b'S' => Ok(Target::Statement),
            b'P' => Ok(Target::Portal),
            other => Err(violation(format!("invalid message subtype {other}"))),
        }
    }

    fn end<T>(self, message: T) -> Result<T> {
        if self.is_empty() { Ok(message) } else { Err(violation("invalid message format")) }
    }
}

impl Frame {
    /// Decodes the body.
    ///
    /// # Errors
    /// 08P01, 22021, 22023. The stream itself is intact.
    pub(crate) fn decode(&self) -> Result<Message<'_>> {
        let mut fields = Fields::new(&self.body);
        let message = match self.tag {
            b'Q' => Message::Query(fields.text()?),
            b'P' => {
                let (name, sql) = (fields.text()?, fields.text()?);
                let count = usize::from(fields.u16()?);
                let types = fields.take(count * 4)?;
                let types = types.chunks_exact(4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]])).collect();
                Message::Parse { name, sql, types }
            }
            b'B' => {
                let (portal, statement) = (fields.text()?, fields.text()?);
                let formats = fields.formats()?;
                let count = usize::from(fields.u16()?);
                // Each value takes four bytes at least.
                let mut values = Vec::with_capacity(count.min(self.body.len() / 4));
                for _ in 0..count {
                    values.push(match fields.i32()? {
                        -1 => None,
                        n => Some(fields.take(usize::try_from(n).map_err(|_| violation("invalid parameter length"))?)?),
                    });
                }
                let result_formats = fields.formats()?;
                Message::Bind(Bind { portal, statement, formats, values, result_formats })
            }
            b'D' => Message::Describe(fields.target()?, fields.text()?),
            b'C' => Message::Close(fields.target()?, fields.text()?),
            b'E' => {
                let portal = fields.text()?;
                // Zero and (as in PostgreSQL) negative numbers: no limit.
                let max_rows = usize::try_from(fields.i32()?).unwrap_or(0);
                Message::Execute { portal, max_rows }
            }
            b'H' => Message::Flush,
            b'S' => Message::Sync,
            b'X' => Message::Terminate,
            b'd' => Message::CopyData(fields.rest()),
            b'c' => Message::CopyDone,
            b'f' => Message::CopyFail(fields.text()?),
            b'p' => {
                fields.rest();
                Message::Password
            }
            b'F' => {
                fields.rest();
                Message::FunctionCall
            }
            other => return Err(violation(format!("invalid frontend message type {other}"))),
        };
        fields.end(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn drain(bytes: &[u8]) {
        let mut buffer = BytesMut::from(bytes);
        while let Ok(Some(frame)) = frame(&mut buffer, 1 << 20) {
            let _ = frame.decode();
        }
        let _ = missing(&buffer, 1 << 20);
        let _ = startup_packet(&mut BytesMut::from(bytes));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            drain(&bytes);
        }

        /// Frames whose outside is right and whose inside is arbitrary, cut anywhere.
        #[test]
        fn no_body_panics(
            tag in prop::sample::select(&b"BCDEFHPQSXcdfp"[..]),
            body in prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0xff), any::<u8>()], 0..128),
            cut in 0usize..140,
        ) {
            let mut bytes = vec![tag];
            bytes.extend((body.len() as i32 + 4).to_be_bytes());
            bytes.extend(&body);
            drain(&bytes);
            drain(&bytes[..cut.min(bytes.len())]);
        }

        /// A frame arriving in two pieces is the same as in one.
        #[test]
        fn frames_do_not_depend_on_chunks(body in prop::collection::vec(any::<u8>(), 0..64), cut in 0usize..70) {
            let mut bytes = vec![b'd'];
            bytes.extend((body.len() as i32 + 4).to_be_bytes());
            bytes.extend(&body);
            let cut = cut.min(bytes.len());
            let mut buffer = BytesMut::from(&bytes[..cut]);
            if cut < bytes.len() {
                prop_assert!(matches!(frame(&mut buffer, 1 << 20), Ok(None)));
                buffer.extend_from_slice(&bytes[cut..]);
            }
            let whole = frame(&mut buffer, 1 << 20).ok().flatten().map(|f| f.body.to_vec());
            prop_assert_eq!(whole, Some(body));
        }
    }

    #[test]
    fn lengths_are_checked_before_anything_else() {
        for (len, kind) in [
            (3i32, ErrorKind::ProtocolViolation),
            (-1, ErrorKind::ProtocolViolation),
            (2_000_000, ErrorKind::ProgramLimit),
        ] {
            let mut bytes = vec![b'Q'];
            bytes.extend(len.to_be_bytes());
            assert_eq!(frame(&mut BytesMut::from(&bytes[..]), 1 << 20).map_err(|e| e.kind()).err(), Some(kind));
        }
        assert!(frame(&mut BytesMut::from(&b"Z\0\0\0\x05I"[..]), 10).is_err());
    }
}
