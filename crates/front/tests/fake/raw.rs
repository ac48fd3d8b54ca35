//! A client that says exactly what it is told to, byte for byte.

#![allow(dead_code, clippy::unwrap_used, reason = "shared by several tests, each of which uses a part")]

use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A message from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub tag: char,
    pub body: Vec<u8>,
}

impl Answer {
    /// A field of an ErrorResponse or NoticeResponse.
    pub fn field(&self, tag: u8) -> Option<String> {
        let found = self.body.split(|b| *b == 0).find(|f| f.first() == Some(&tag))?;
        Some(String::from_utf8_lossy(&found[1..]).into_owned())
    }

    pub fn sqlstate(&self) -> String {
        assert_eq!(self.tag, 'E', "{self:?}");
        self.field(b'C').unwrap()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim_end_matches('\0').to_string()
    }
}

pub struct Raw {
    pub stream: TcpStream,
}

pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    out.extend((body.len() as i32 + 4).to_be_bytes());
    out.extend(body);
    out
}

pub fn query(sql: &str) -> Vec<u8> {
    message(b'Q', format!("{sql}\0").as_bytes())
}

pub fn parse(name: &str, sql: &str, types: &[u32]) -> Vec<u8> {
    let mut body = format!("{name}\0{sql}\0").into_bytes();
    body.extend((types.len() as u16).to_be_bytes());
    types.iter().for_each(|t| body.extend(t.to_be_bytes()));
    message(b'P', &body)
}

pub fn bind(portal: &str, statement: &str, values: &[&str]) -> Vec<u8> {
    let mut body = format!("{portal}\0{statement}\0\0\0").into_bytes();
    body.extend((values.len() as u16).to_be_bytes());
    for v in values {
        body.extend((v.len() as i32).to_be_bytes());
        body.extend(v.as_bytes());
    }
    body.extend([0, 0]);
    message(b'B', &body)
}

pub fn execute(portal: &str, max_rows: i32) -> Vec<u8> {
    let mut body = format!("{portal}\0").into_bytes();
    body.extend(max_rows.to_be_bytes());
    message(b'E', &body)
}

pub fn describe(kind: char, name: &str) -> Vec<u8> {
    message(b'D', format!("{kind}{name}\0").as_bytes())
}

pub fn sync() -> Vec<u8> {
    message(b'S', &[])
}

pub fn startup(version: i32, settings: &[(&str, &str)]) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    for (name, value) in settings {
        body.extend(format!("{name}\0{value}\0").into_bytes());
    }
    body.push(0);
    let mut out = (body.len() as i32 + 4).to_be_bytes().to_vec();
    out.extend(body);
    out
}

pub const V3: i32 = 3 << 16;

impl Raw {
    pub async fn open(addr: SocketAddr) -> Raw {
        Raw { stream: TcpStream::connect(addr).await.unwrap() }
    }

    /// Logged in, everything up to ReadyForQuery read.
    pub async fn ready(addr: SocketAddr) -> Raw {
        let mut raw = Raw::open(addr).await;
        raw.send(&startup(V3, &[("user", "atoll"), ("database", "atoll")])).await;
        raw.until_ready().await;
        raw
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next message; `None` when the server has closed the connection.
    pub async fn next(&mut self) -> Option<Answer> {
        let read = async {
            let tag = self.stream.read_u8().await.ok()?;
            let len = self.stream.read_i32().await.ok()?;
            let mut body = vec![0; usize::try_from(len).unwrap() - 4];
            self.stream.read_exact(&mut body).await.ok()?;
            Some(Answer { tag: tag as char, body })
        };
        tokio::time::timeout(Duration::from_secs(20), read).await.expect("the server answers")
    }

    pub async fn until_ready(&mut self) -> Vec<Answer> {
        let mut answers = Vec::new();
        loop {
            let answer = self.next().await.expect("the connection stays");
            let ready = answer.tag == 'Z';
            answers.push(answer);
            if ready {
                return answers;
            }
        }
    }

    /// Sends, and gives the tags of the answers up to ReadyForQuery.
    pub async fn tags(&mut self, bytes: &[u8]) -> String {
        self.send(bytes).await;
        self.until_ready().await.iter().map(|a| a.tag).collect()
    }
}
