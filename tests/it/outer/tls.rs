//! TLS: both protocols by ALPN, a certificate that is exchanged while the gateway serves, and clients that never shake hands.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::{Certificate, Client, Response, Version};
use serde_json::json;
use tempfile::TempDir;

use super::commands::sluicegate;
use super::running::{Running, eventually, in_time, refused};
use super::wire::Wire;

/// A self-signed certificate for `localhost` and its key, where a gateway looks for them.
struct Files {
    folder: TempDir,
}

impl Files {
    fn new() -> Self {
        Self { folder: TempDir::new().unwrap() }
    }

    fn cert(&self) -> PathBuf {
        self.folder.path().join("cert.pem")
    }

    fn key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }

    /// Writes another pair, and returns what trusts it.
    fn exchange(&self) -> Certificate {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(self.cert(), made.cert.pem()).unwrap();
        std::fs::write(self.key(), made.signing_key.serialize_pem()).unwrap();
        Certificate::from_pem(made.cert.pem().as_bytes()).unwrap()
    }

    fn serve(&self, settings: &[(&str, &str)]) -> Running {
        let (cert, key) = (text(&self.cert()), text(&self.key()));
        Running::scripted(&[&[("SERVER__TLS__CERT", cert.as_str()), ("SERVER__TLS__KEY", &key)], settings].concat())
    }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// Trusts this certificate alone.
fn client(trusted: &Certificate) -> Client {
    Client::builder().no_proxy().tls_certs_only([trusted.clone()]).build().unwrap()
}

fn url(gateway: &Running, path: &str) -> String {
    format!("https://localhost:{}{path}", gateway.address.port())
}

async fn healthz(gateway: &Running, client: &Client) -> reqwest::Result<Response> {
    in_time("the answer", client.get(url(gateway, "/healthz")).send()).await
}

/// A stream that is longer than any test.
async fn long_stream(gateway: &Running, client: &Client) -> Response {
    let body = json!({"model": "builtin", "stream": true, "max_tokens": 8000,
        "messages": [{"role": "user", "content": "hi"}]});
    let sent = client.post(url(gateway, "/v1/chat/completions")).json(&body).send();
    let mut response = in_time("the head", sent).await.unwrap();
    assert_eq!(response.status().as_u16(), 200);
    in_time("a chunk", response.chunk()).await.unwrap().unwrap();
    response
}

#[tokio::test]
async fn both_protocols_are_spoken_by_alpn_and_nothing_without_tls() {
    let files = Files::new();
    let trusted = files.exchange();
    let gateway = files.serve(&[]);
    let old = Client::builder().no_proxy().tls_certs_only([trusted.clone()]).http1_only().build().unwrap();
    assert_eq!(healthz(&gateway, &client(&trusted)).await.unwrap().version(), Version::HTTP_2);
    assert_eq!(healthz(&gateway, &old).await.unwrap().version(), Version::HTTP_11);
    let mut plain = Wire::connect(gateway.address);
    plain.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let (answer, _) = plain.read_to_end();
    assert!(!answer.contains("HTTP/1.1 200"), "{answer}");

    let gateway = files.serve(&[("SERVER__HTTP2", "off")]);
    assert_eq!(healthz(&gateway, &client(&trusted)).await.unwrap().version(), Version::HTTP_11);
}

#[tokio::test]
async fn old_versions_of_tls_are_spoken_down_to_1_2() {
    let files = Files::new();
    let trusted = files.exchange();
    let gateway = files.serve(&[]);
    for version in [reqwest::tls::Version::TLS_1_2, reqwest::tls::Version::TLS_1_3] {
        let client = Client::builder().no_proxy().tls_certs_only([trusted.clone()]);
        let client = client.min_tls_version(version).max_tls_version(version).build().unwrap();
        assert_eq!(healthz(&gateway, &client).await.unwrap().status().as_u16(), 200, "{version:?}");
    }
}

#[tokio::test]
async fn a_certificate_is_exchanged_while_a_stream_goes_on() {
    let files = Files::new();
    let first = files.exchange();
    let gateway = files.serve(&[]);
    let mut stream = long_stream(&gateway, &client(&first)).await;

    // By SIGHUP.
    let second = files.exchange();
    gateway.signal("HUP");
    eventually("new connections get it", async || healthz(&gateway, &client(&second)).await.is_ok()).await;
    assert!(healthz(&gateway, &client(&first)).await.is_err());
    // By itself.
    let third = files.exchange();
    eventually("new connections get it", async || healthz(&gateway, &client(&third)).await.is_ok()).await;

    // A key without its certificate changes nothing, and the log says why.
    std::fs::write(files.key(), rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
    gateway.signal("HUP");
    let told = || gateway.log().into_iter().find(|line| line["message"] == "the certificate stays as it was");
    eventually("it is told", async || told().is_some()).await;
    assert!(
        told().unwrap()["why"].as_str().unwrap().contains("does not belong to the certificate"),
        "{told:?}",
        told = told()
    );
    assert_eq!(healthz(&gateway, &client(&third)).await.unwrap().status().as_u16(), 200);
    in_time("a chunk", stream.chunk()).await.unwrap().unwrap();
}

#[tokio::test]
async fn clients_that_do_not_shake_hands_are_let_go_and_hold_nobody_up() {
    let files = Files::new();
    let trusted = files.exchange();
    let gateway = files.serve(&[("SERVER__HEADER_TIMEOUT_MS", "1000")]);
    let mut silent: Vec<_> = (0..50).map(|_| Wire::connect(gateway.address)).collect();
    assert_eq!(healthz(&gateway, &client(&trusted)).await.unwrap().status().as_u16(), 200);
    // The beginning of a ClientHello that never comes whole.
    silent[0].send("\u{16}\u{3}\u{1}");
    for wire in &mut silent {
        let (answer, took) = wire.read_to_end();
        assert_eq!((answer.as_str(), took < Duration::from_secs(20)), ("", true));
    }
}

#[tokio::test]
async fn commands_trust_the_authority_that_they_are_given() {
    let files = Files::new();
    files.exchange();
    let gateway = files.serve(&[]);
    let (base, cert) = (url(&gateway, ""), text(&files.cert()));
    let list = |more: &[&str]| sluicegate(&[&["pool", "list", "--url", &base], more].concat(), "");
    let trusting = list(&["--ca-file", &cert]);
    assert_eq!(trusting.code, Some(0), "{}", trusting.stderr);
    assert!(trusting.stdout.contains("default"), "{}", trusting.stdout);
    assert_eq!(list(&[]).code, Some(1), "nobody else vouches for it");
    let wrong = list(&["--ca-file", &text(&files.key())]);
    assert!(wrong.stderr.contains("holds no certificate in PEM form"), "{}", wrong.stderr);
}

#[test]
fn a_certificate_that_cannot_be_served_is_one_clear_line() {
    let files = Files::new();
    files.exchange();
    std::fs::remove_file(files.key()).unwrap();
    let (cert, key) = (text(&files.cert()), text(&files.key()));
    let settings = [("SERVER__TLS__CERT", cert.as_str()), ("SERVER__TLS__KEY", &key)];
    let exit = refused(&["--listen", "127.0.0.1:0", "--engine", "scripted"], &settings);
    assert_eq!(exit.code, Some(1), "{}", exit.stderr);
    let messages: Vec<_> = exit.stderr.lines().filter(|line| !line.starts_with('{')).collect();
    let expected = format!("sluicegate: server.tls: {key} cannot be read: No such file or directory (os error 2)");
    assert_eq!(messages, [expected], "{}", exit.stderr);
}
