//! The HTTP transport against servers that say what they were told to.

use std::sync::Arc;
use std::time::Duration;

use cpl_host::SystemClock;
use futures::StreamExt;
use http::{HeaderMap, Method};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::http::{HttpConfig, HttpConfigError, HttpControlPlaneTransport};
use crate::transport::{
    ConnectFailure, ControlPlaneTransport, Request, TlsFailure, TransportError, Wait,
};

fn request() -> Request {
    Request {
        method: Method::GET,
        target: "/version".to_owned(),
        headers: HeaderMap::new(),
        body: bytes::Bytes::new(),
        timeout: Duration::from_millis(200),
        max_response_bytes: 100,
    }
}

/// A server that answers every request with this, and never closes a connection.
async fn server(says: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut connection, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut asked = [0; 4096];
                while connection.read(&mut asked).await.is_ok_and(|read| read > 0) {
                    connection.write_all(says.as_bytes()).await.unwrap();
                }
            });
        }
    });
    format!("http://{address}")
}

/// An address where nothing listens.
async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

fn transport(servers: &[String]) -> HttpControlPlaneTransport {
    let config = HttpConfig {
        servers: servers.to_vec(),
        ..HttpConfig::new("")
    };
    HttpControlPlaneTransport::new(&config, Arc::new(SystemClock::new())).unwrap()
}

async fn fails(says: &'static str) -> TransportError {
    let server = server(says).await;
    transport(&[server]).send(request()).await.unwrap_err()
}

#[tokio::test]
async fn an_answer_is_handed_over_whatever_its_status() {
    let server = server("HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno").await;
    let response = transport(&[server]).send(request()).await.unwrap();
    assert_eq!(
        (response.status.as_u16(), &response.body[..]),
        (404, &b"no"[..])
    );
}

#[tokio::test]
async fn failures_are_told_apart() {
    let unheard = transport(&[nobody().await]).send(request()).await;
    assert!(matches!(
        unheard,
        Err(TransportError::Connect {
            failure: ConnectFailure::Refused,
            ..
        })
    ));
    let nameless = ["http://nobody.invalid:1".to_owned()];
    let nameless = transport(&nameless).send(request()).await;
    assert!(
        matches!(nameless, Err(TransportError::Dns { .. })),
        "{nameless:?}"
    );
    assert_eq!(fails("").await, TransportError::Timeout(Wait::Response));
    assert_eq!(
        fails("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await,
        TransportError::Timeout(Wait::Body)
    );
    assert_eq!(
        fails("HTTP/1.1 200 OK\r\ncontent-length: 101\r\n\r\n").await,
        TransportError::TooLarge { limit: 100 }
    );
    assert!(matches!(
        fails("what?\r\n\r\n").await,
        TransportError::Closed { .. }
    ));
}

#[tokio::test]
async fn a_server_without_tls_is_not_trusted() {
    let server = server("HTTP/1.1 200 OK\r\n\r\n").await;
    let server = server.replace("http:", "https:");
    let error = transport(&[server]).send(request()).await.unwrap_err();
    assert!(
        matches!(
            error,
            TransportError::Tls {
                failure: TlsFailure::Other,
                ..
            }
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn the_next_server_is_used_when_one_fails() {
    let good = server("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let leaving = server("HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n").await;
    let transport = transport(&[nobody().await, leaving, good]);
    assert!(transport.send(request()).await.is_err());
    for status in [503, 200, 200] {
        let response = transport.send(request()).await.unwrap();
        assert_eq!(response.status.as_u16(), status);
    }
}

#[tokio::test]
async fn a_stream_gives_what_came_and_then_the_silence() {
    let server = server("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n").await;
    let mut response = transport(&[server]).stream(request()).await.unwrap();
    assert_eq!(response.body.next().await.unwrap().unwrap(), "abc");
    let silence = response.body.next().await.unwrap().unwrap_err();
    assert_eq!(silence, TransportError::Timeout(Wait::Body));
    assert!(response.body.next().await.is_none());
}

#[test]
fn settings_are_checked() {
    for server in ["", "x:1", "ftp://x", "http://x/path", "http://me@x"] {
        let made =
            HttpControlPlaneTransport::new(&HttpConfig::new(server), Arc::new(SystemClock::new()));
        assert!(
            matches!(made, Err(HttpConfigError::BadServer { .. })),
            "{server}"
        );
    }
}
