//! A response. Every one is a JSON object that closes its connection. Pure.

use std::fmt::Write;

use serde_json::Value;

use super::StatusCode;

/// A finished response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub status: StatusCode,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
}

impl Response {
    /// A JSON object with its members in this order, the most telling one first. `serde_json`'s own objects are sorted.
    pub fn new(status: u16, members: &[(&str, Value)]) -> Self {
        let members: Vec<_> =
            members.iter().map(|(name, value)| format!("{}:{value}", Value::from(*name))).collect();
        let body = format!("{{{}}}", members.join(","));
        Self { status: StatusCode(status), headers: Vec::new(), body }
    }

    /// The bytes of the response as HTTP/1.1 (RFC 9112, 4). The answer to HEAD has the head of the one to GET and no
    /// body (RFC 9110, 9.3.2).
    pub fn to_http(&self, to_head: bool) -> Vec<u8> {
        self.to_bytes("HTTP/1.1", "Connection: close\r\n", to_head)
    }

    /// The bytes of the response as a CGI program gives it to its web server (RFC 3875, 6).
    pub fn to_cgi(&self, to_head: bool) -> Vec<u8> {
        self.to_bytes("Status:", "", to_head)
    }

    fn to_bytes(&self, start: &str, last: &str, to_head: bool) -> Vec<u8> {
        let mut text = format!("{start} {} {}\r\n", self.status.0, self.status.default_reason_phrase());
        for (name, value) in &self.headers {
            let _ = write!(text, "{name}: {value}\r\n"); // writing to a String cannot fail
        }
        let length = self.body.len();
        let _ = write!(
            text,
            "Content-Type: application/json\r\nContent-Length: {length}\r\nCache-Control: no-store\r\n{last}\r\n"
        );
        if !to_head {
            text.push_str(&self.body);
        }
        text.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_keep_their_order_and_are_escaped() {
        let response = Response::new(200, &[("z", "a\"\n".into()), ("a", Value::Null)]);
        assert_eq!(response.body, r#"{"z":"a\"\n","a":null}"#);
    }

    #[test]
    fn the_answer_to_head_has_the_head_of_the_one_to_get() {
        let response = Response::new(404, &[("success", false.into())]);
        let expected = "HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 17\r\n\
                        Cache-Control: no-store\r\nConnection: close\r\n\r\n";
        assert_eq!(String::from_utf8(response.to_http(true)).unwrap(), expected);
        assert_eq!(
            String::from_utf8(response.to_http(false)).unwrap(),
            format!("{expected}{}", response.body)
        );
    }
}
