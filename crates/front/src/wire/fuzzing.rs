//! What must hold of the wire decoder for any bytes, whoever makes them up: proptest (below) or a coverage-guided fuzzer (`fuzz/`).
//!
//! Each property takes a string of bytes, out of which it draws messages and damage, so that one harness serves both, and what a
//! fuzzer finds can be pasted into a test as it is. A property fails by panicking.

use super::frontend::{Bind, Formats, Frame, Message, Target, frame, missing, startup_packet};
use super::startup::parameters;
use crate::cells::Cell;
use crate::encode::{Format, write_binary};
use crate::params::decode;
use atoll_model::{Error, ErrorKind, SqlType, text};
use bytes::BytesMut;

/// The limit on messages here.
const LIMIT: usize = 1 << 16;

/// Draws decisions from bytes; when they run out, the simplest ones.
struct Draw<'a>(&'a [u8]);

impl Draw<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn below(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most + 1)).map(|_| self.byte()).collect()
    }

    fn text(&mut self) -> String {
        let alphabet = ['a', '$', '1', ' ', '\u{1}', 'é', '\u{10ffff}'];
        (0..self.below(6)).map(|_| alphabet[self.below(alphabet.len())]).collect()
    }

    /// Damages bytes.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(3) {
            let at = usize::from(u16::from_be_bytes(self.array())) % (bytes.len() + 1);
            match self.below(6) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 if at < bytes.len() => bytes[at] = self.byte(),
                // Where a length or a count may stand.
                2 if at < bytes.len() => bytes[at] = 0xff,
                3 => bytes.truncate(at),
                4 => {
                    let new = self.bytes(9);
                    bytes.splice(at..at, new);
                }
                _ => {
                    let end = (at + self.below(9)).min(bytes.len());
                    bytes.drain(at..end);
                }
            }
        }
    }

    fn formats(&mut self) -> Vec<u16> {
        (0..self.below(4)).map(|_| self.below(2) as u16).collect()
    }
}

/// Writes a body field by field, as clients do.
#[derive(Default)]
struct Body(Vec<u8>);

impl Body {
    fn text(mut self, text: &str) -> Self {
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
        self
    }

    fn int(mut self, n: i32) -> Self {
        self.0.extend_from_slice(&n.to_be_bytes());
        self
    }

    fn short(mut self, n: usize) -> Self {
        self.0.extend_from_slice(&(n as u16).to_be_bytes());
        self
    }

    fn formats(self, codes: &[u16]) -> Self {
        codes.iter().fold(self.short(codes.len()), |body, code| body.short(usize::from(*code)))
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
}

fn framed(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    out.extend_from_slice(&(body.len() as i32 + 4).to_be_bytes());
    out.extend_from_slice(body);
    out
}

/// Errors of decoding a message whose frame is whole: the connection goes on after them.
fn is_error_of_a_message(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolViolation | ErrorKind::InvalidEncoding | ErrorKind::InvalidParameterValue)
}

/// Messages: what a client writes is what is decoded; every part of one is refused with 08P01, and so is every longer one; damage
/// within one gives some message or an error, and leaves the stream at the next.
pub fn messages(data: &[u8]) {
    let mut draw = Draw(data);
    let (tag, body, expected) = message(&mut draw);
    let whole = Frame { tag, body: body.clone().into() };
    let decoded = whole.decode();
    assert!(decoded.as_ref().is_ok_and(|message| format!("{message:?}") == expected), "{decoded:?} is not {expected}");

    // Those that hold whatever they hold have no part that is wrong.
    if !matches!(tag, b'd' | b'p' | b'F') {
        let longer = [&body[..], &[0]].concat();
        let parts = (0..body.len()).map(|end| &body[..end]);
        for wrong in parts.chain([&longer[..]]) {
            let frame = Frame { tag, body: wrong.to_vec().into() };
            let kind = frame.decode().map_err(|error| error.kind()).err();
            assert_eq!(
                kind,
                Some(ErrorKind::ProtocolViolation),
                "{} of {} bytes of {expected}",
                wrong.len(),
                body.len()
            );
        }
    }

    let mut damaged = body;
    draw.damage(&mut damaged);
    let mut buffer = BytesMut::from(&[framed(tag, &damaged), framed(b'S', &[])].concat()[..]);
    let first = frame(&mut buffer, LIMIT).expect("a good frame").expect("a whole frame");
    assert_eq!(&first.body[..], &damaged[..]);
    if let Err(error) = first.decode() {
        assert!(is_error_of_a_message(&error), "{error:?}");
    }
    let second = frame(&mut buffer, LIMIT).expect("a good frame").expect("a whole frame");
    assert!(matches!(second.decode(), Ok(Message::Sync)) && buffer.is_empty());
}

/// A message as a client writes it: its tag, its body, and what decoding has to give.
fn message(draw: &mut Draw<'_>) -> (u8, Vec<u8>, String) {
    let body = Body::default();
    let (name, other) = (draw.text(), draw.text());
    let expect = |message: Message<'_>| format!("{message:?}");
    let target = |draw: &mut Draw<'_>| {
        if draw.below(2) == 0 { (b'S', Target::Statement) } else { (b'P', Target::Portal) }
    };
    let (tag, body, expected) = match draw.below(14) {
        0 => (b'Q', body.text(&name), expect(Message::Query(&name))),
        1 => {
            let types: Vec<u32> = (0..draw.below(5)).map(|_| u32::from_be_bytes(draw.array())).collect();
            let body = types.iter().fold(body.text(&name).text(&other).short(types.len()), |b, ty| b.int(*ty as i32));
            (b'P', body, expect(Message::Parse { name: &name, sql: &other, types }))
        }
        2..5 => {
            let (given, wanted) = (draw.formats(), draw.formats());
            let values: Vec<Option<Vec<u8>>> =
                (0..draw.below(5)).map(|_| (draw.below(4) > 0).then(|| draw.bytes(9))).collect();
            let body = body.text(&name).text(&other).formats(&given).short(values.len());
            let body = values.iter().fold(body, |body, value| match value {
                None => body.int(-1),
                Some(value) => body.int(value.len() as i32).raw(value),
            });
            let bind = Bind {
                portal: &name,
                statement: &other,
                formats: formats(&given),
                values: values.iter().map(Option::as_deref).collect(),
                result_formats: formats(&wanted),
            };
            (b'B', body.formats(&wanted), expect(Message::Bind(bind)))
        }
        5 => {
            let (letter, target) = target(draw);
            (b'D', body.raw(&[letter]).text(&name), expect(Message::Describe(target, &name)))
        }
        6 => {
            let (letter, target) = target(draw);
            (b'C', body.raw(&[letter]).text(&name), expect(Message::Close(target, &name)))
        }
        7 => {
            let rows = i32::from_be_bytes(draw.array());
            let max_rows = usize::try_from(rows).unwrap_or(0);
            (b'E', body.text(&name).int(rows), expect(Message::Execute { portal: &name, max_rows }))
        }
        8 => (b'H', body, expect(Message::Flush)),
        9 => (b'X', body, expect(Message::Terminate)),
        10 => {
            let data = draw.bytes(40);
            (b'd', body.raw(&data), expect(Message::CopyData(&data)))
        }
        11 => (b'c', body, expect(Message::CopyDone)),
        12 => (b'f', body.text(&name), expect(Message::CopyFail(&name))),
        _ => (b'F', body.raw(&draw.bytes(20)), expect(Message::FunctionCall)),
    };
    (tag, body.0, expected)
}

fn formats(codes: &[u16]) -> Formats {
    let format = |code: &u16| if *code == 1 { Format::Binary } else { Format::Text };
    match codes {
        [] => Formats::All(Format::Text),
        [one] => Formats::All(format(one)),
        many => Formats::Each(many.iter().map(format).collect()),
    }
}

/// Streams: however the bytes arrive, the same frames come out of them, none of which holds a byte twice or beyond its end;
/// what is still missing is told exactly; nothing larger than the limit is waited for.
pub fn stream(data: &[u8]) {
    let mut draw = Draw(data);
    let mut bytes = vec![];
    for _ in 0..draw.below(6) {
        let (tag, body, _) = message(&mut draw);
        bytes.extend(framed(tag, &body));
    }
    draw.damage(&mut bytes);
    bytes.extend_from_slice(draw.0);
    let whole = frames(&bytes, &[bytes.len().max(1)]);
    assert_eq!(whole, frames(&bytes, &[1]));
    assert_eq!(whole, frames(&bytes, &[1 + draw.below(7), 1 + draw.below(40)]));
}

/// The frames of a stream that arrives in pieces of these sizes, and the error that ends it.
fn frames(bytes: &[u8], sizes: &[usize]) -> (Vec<Vec<u8>>, Option<ErrorKind>) {
    let (mut buffer, mut found, mut taken, mut rest) = (BytesMut::new(), vec![], 0, bytes);
    let mut sizes = sizes.iter().cycle();
    loop {
        match frame(&mut buffer, LIMIT) {
            Err(error) => {
                let kind = error.kind();
                assert!(matches!(kind, ErrorKind::ProtocolViolation | ErrorKind::ProgramLimit));
                return (found, Some(kind));
            }
            Ok(Some(frame)) => {
                let all = framed(frame.tag, &frame.body);
                assert_eq!(bytes[taken..taken + all.len()], all);
                taken += all.len();
                if let Err(error) = frame.decode() {
                    assert!(is_error_of_a_message(&error), "{error:?}");
                }
                found.push(all);
            }
            Ok(None) => {
                let lacking = missing(&buffer, LIMIT);
                assert!(lacking <= LIMIT + 5 && (lacking > 0 || buffer.len() < 5));
                if rest.is_empty() {
                    return (found, None);
                }
                let piece = sizes.next().copied().unwrap_or(1).min(rest.len());
                buffer.extend_from_slice(&rest[..piece]);
                rest = &rest[piece..];
            }
        }
    }
}

/// Startup packets: parameters come back; anything else is an error that PostgreSQL gives too.
pub fn startup(data: &[u8]) {
    let mut draw = Draw(data);
    let settings: Vec<(String, String)> =
        (0..draw.below(4)).map(|at| (format!("s{at}{}", draw.text()), draw.text())).collect();
    let mut body = Body::default().int(3 << 16).text("user").text("x");
    for (name, value) in &settings {
        body = body.text(name).text(value);
    }
    let body = body.raw(&[0]).0;
    let (found, unknown) = parameters(&body[4..]).expect("a good packet");
    assert_eq!((found.user.as_str(), found.settings, unknown), ("x", settings, vec![]));

    let mut damaged = [&(body.len() as i32 + 4).to_be_bytes()[..], &body].concat();
    draw.damage(&mut damaged);
    for bytes in [&damaged[..], draw.0] {
        let mut buffer = BytesMut::from(bytes);
        match startup_packet(&mut buffer) {
            Ok(Some(packet)) => {
                assert_eq!(4 + packet.len() + buffer.len(), bytes.len());
                let kind = packet.get(4..).and_then(|rest| parameters(rest).err()).map(|error| error.kind());
                assert!(matches!(
                    kind,
                    None | Some(
                        ErrorKind::ProtocolViolation
                            | ErrorKind::InvalidEncoding
                            | ErrorKind::NotSupported
                            | ErrorKind::Syntax
                    )
                ));
            }
            Ok(None) => assert_eq!(&buffer[..], bytes),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ProtocolViolation),
        }
    }
}

/// Parameters: any bytes give a value that can be sent back in both forms and reads back as the same value, or an error of class 22.
pub fn parameter(data: &[u8]) {
    let mut draw = Draw(data);
    let scalars = [
        SqlType::Bool,
        SqlType::Int2,
        SqlType::Int4,
        SqlType::Int8,
        SqlType::Float4,
        SqlType::Float8,
        SqlType::Numeric(None),
        SqlType::Numeric(Some((38, 4))),
        SqlType::Numeric(Some((5, -2))),
        SqlType::Text,
        SqlType::Varchar(Some(3)),
        SqlType::Char(3),
        SqlType::Bytea,
        SqlType::Date,
        SqlType::Time(None),
        SqlType::Timestamp(None),
        SqlType::TimestampTz(None),
        SqlType::Interval,
        SqlType::Uuid,
        SqlType::Json,
        SqlType::Jsonb,
    ];
    let scalar = scalars[draw.below(scalars.len())].clone();
    let (ty, mut bytes) = match draw.below(4) {
        0 => {
            let mut body = Body::default().int(1).int(draw.below(2) as i32).int(scalar.pg_oid() as i32);
            let count = draw.below(4);
            body = body.int(count as i32).int(1);
            for _ in 0..count {
                let value = binary(&mut draw, &scalar);
                body = if draw.below(5) == 0 { body.int(-1) } else { body.int(value.len() as i32).raw(&value) };
            }
            (SqlType::Array(Box::new(scalar)), body.0)
        }
        _ => (scalar.clone(), binary(&mut draw, &scalar)),
    };
    check_parameter(&ty, &bytes);
    draw.damage(&mut bytes);
    check_parameter(&ty, &bytes);
}

/// Bytes that are nearly a value of a type in binary form.
fn binary(draw: &mut Draw<'_>, ty: &SqlType) -> Vec<u8> {
    match ty {
        SqlType::Bool => vec![draw.byte()],
        SqlType::Int2 => draw.array::<2>().to_vec(),
        SqlType::Int4 | SqlType::Float4 | SqlType::Date => draw.array::<4>().to_vec(),
        SqlType::Uuid | SqlType::Interval => draw.array::<16>().to_vec(),
        SqlType::Numeric(_) => {
            let digits = draw.below(12);
            let body = Body::default().short(digits).short(draw.byte() as i8 as usize);
            let body = body.short([0, 0x4000, 0xc000][draw.below(3)]).short(draw.below(40));
            (0..digits).fold(body, |body, _| body.short(usize::from(u16::from_be_bytes(draw.array())) % 10_001)).0
        }
        SqlType::Jsonb => {
            [&[1][..], [&b"{\"a\": [1e5, null]}"[..], b"[]", b"\"\\u00e9\"", b"-0"][draw.below(4)]].concat()
        }
        SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) | SqlType::Json => draw.text().into_bytes(),
        SqlType::Bytea => draw.bytes(20),
        _ => draw.array::<8>().to_vec(),
    }
}

fn check_parameter(ty: &SqlType, bytes: &[u8]) {
    for format in [Format::Binary, Format::Text] {
        let value = match decode(ty, format, Some(bytes)) {
            Ok(value) => value,
            Err(error) => {
                let state = error.kind().sqlstate();
                assert!(state.starts_with("22") || matches!(state, "0A000" | "54000"), "{ty}: {error:?}");
                continue;
            }
        };
        let shown = text::to_text(ty, &value);
        let again = decode(ty, Format::Text, Some(shown.as_bytes()));
        assert!(
            again.as_ref().is_ok_and(|again| same(again, &value)),
            "{ty}: {value:?}, shown as {shown}, is {again:?}"
        );
        let mut out = vec![];
        match write_binary(ty, Cell::from(&value), &mut out) {
            Ok(()) => {
                let again = decode(ty, Format::Binary, Some(&out));
                assert!(
                    again.as_ref().is_ok_and(|again| same(again, &value)),
                    "{ty}: {value:?} in binary is {again:?}"
                );
            }
            // Arrays whose rows differ in length have no binary form.
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotSupported, "{ty}: {value:?}"),
        }
    }
}

/// The same value; NaN is one value.
fn same(a: &atoll_model::Value, b: &atoll_model::Value) -> bool {
    use atoll_model::Value::{Array, Float4, Float8};
    match (a, b) {
        (Float4(a), Float4(b)) => a == b || (a.is_nan() && b.is_nan()),
        (Float8(a), Float8(b)) => a == b || (a.is_nan() && b.is_nan()),
        (Array(a), Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    /// `PROPTEST_CASES` asks for more; a failure prints the smallest input found and how to repeat it.
    fn cases(default: u32) -> ProptestConfig {
        let asked = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok());
        ProptestConfig::with_cases(asked.unwrap_or(default))
    }

    proptest! {
        #![proptest_config(cases(4_000))]

        #[test]
        fn messages(data in prop::collection::vec(any::<u8>(), 0..120)) {
            super::messages(&data);
        }

        #[test]
        fn stream(data in prop::collection::vec(any::<u8>(), 0..300)) {
            super::stream(&data);
        }

        #[test]
        fn startup(data in prop::collection::vec(any::<u8>(), 0..120)) {
            super::startup(&data);
        }

        #[test]
        fn parameter(data in prop::collection::vec(any::<u8>(), 0..120)) {
            super::parameter(&data);
        }
    }
}
