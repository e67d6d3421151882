//! WebDriver, as chromedriver speaks it: JSON over HTTP/1.1, one request a connection. Small enough to stand here; a crate
//! would bring an HTTP stack of its own.

use std::io::{BufRead, BufReader, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

/// No command takes longer, loading a page included.
const COMMAND_TIME: Duration = Duration::from_secs(30);

/// How commands reach chromedriver.
pub trait Wire {
    /// Sends one request and gives the answer's JSON.
    fn send(&self, method: &str, path: &str, body: &str) -> String;
}

/// Over TCP on this machine.
#[derive(Debug)]
pub struct Loopback {
    /// Chromedriver's port.
    pub port: u16,
}

impl Wire for Loopback {
    fn send(&self, method: &str, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("chromedriver listens");
        stream.set_read_timeout(Some(COMMAND_TIME)).expect("a deadline");
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\nconnection: close\r\n\r\n{body}",
            self.port
        );
        stream.write_all(request.as_bytes()).expect("chromedriver takes commands");
        read_answer(BufReader::new(stream))
    }
}

/// The body of an answer, by its length: chromedriver keeps the connection open whatever it is told.
fn read_answer(mut stream: impl BufRead) -> String {
    let mut length = 0;
    loop {
        let mut line = String::new();
        let read = stream.read_line(&mut line).expect("chromedriver answers in time");
        let line = line.trim_end();
        if read == 0 || line.is_empty() {
            break;
        }
        let value = line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        length = value.map_or(length, |(_, value)| value.trim().parse().expect("a length is a number"));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).expect("chromedriver answers whole");
    String::from_utf8(body).expect("JSON is UTF-8")
}

/// What WebDriver said no with: `no such element`, `javascript error`, ...
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// In one word.
    pub error: String,
    /// In some more.
    pub message: String,
}

/// A session with a browser.
pub struct Session {
    wire: Box<dyn Wire>,
    path: String,
}

impl Session {
    /// Opens a browser with these capabilities.
    ///
    /// # Panics
    /// If there is none.
    pub fn open(wire: Box<dyn Wire>, capabilities: &Value) -> Self {
        let body = json!({"capabilities": {"alwaysMatch": capabilities}}).to_string();
        let answer: Value = serde_json::from_str(&wire.send("POST", "/session", &body)).expect("JSON");
        let id = answer["value"]["sessionId"].as_str().unwrap_or_else(|| panic!("no browser: {answer}"));
        let path = format!("/session/{id}");
        Self { wire, path }
    }

    /// One command of the session.
    ///
    /// # Errors
    /// What WebDriver refused it with.
    pub fn try_command(&self, method: &str, path: &str, body: &Value) -> Result<Value, Refused> {
        let body = if method == "POST" { body.to_string() } else { String::new() };
        let answer = self.wire.send(method, &format!("{}{path}", self.path), &body);
        let mut answer: Value = serde_json::from_str(&answer).unwrap_or_else(|_| panic!("no JSON: {answer}"));
        let value = answer["value"].take();
        match value.get("error").and_then(Value::as_str) {
            None => Ok(value),
            Some(error) => {
                let message = value["message"].as_str().unwrap_or_default();
                Err(Refused {
                    error: error.to_owned(),
                    message: message.lines().next().unwrap_or("").to_owned(),
                })
            }
        }
    }

    /// One command that must succeed.
    ///
    /// # Panics
    /// If it does not.
    pub fn command(&self, method: &str, path: &str, body: &Value) -> Value {
        self.try_command(method, path, body).unwrap_or_else(|refused| panic!("{method} {path}: {refused:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_where_its_length_says() {
        let bytes: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n{{}}and what comes later";
        assert_eq!(read_answer(bytes), "{{}}");
    }
}
