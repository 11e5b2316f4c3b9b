//! The sockets, and who may come to them.

use insta::assert_snapshot;
use sluicegate::api::Origins;

use super::file;

#[test]
fn a_certificate_has_its_key() {
    let tls = file("server.tls = { cert = \"/etc/tls.crt\", key = \"/etc/tls.key\" }").config().server.tls.unwrap();
    assert_eq!((tls.cert, tls.key), ("/etc/tls.crt".into(), "/etc/tls.key".into()));
    assert_snapshot!(file("server.tls = { cert = \"\", kay = \"/etc/tls.key\" }").mistakes(), @"
    :1: server.tls.cert: the file with the certificate, in PEM form, is needed
    :1: server.tls.kay: unknown key; did you mean `key`?
    :1: server.tls.key: the file with its private key, in PEM form, is needed
    ");
}

#[test]
fn proxies_and_failed_logins_are_checked() {
    let text = r#"
[server]
trusted_proxies = ["10.0.0.0/8", "::1", "10.0.0.0/33", "proxy.internal"]
forwarded_header = "via"
failed_logins = { burst = 5, per_minute = 0 }
"#;
    assert_snapshot!(file(text).mistakes(), @r#"
    :3: server.trusted_proxies[2]: an address or a network, such as ::1 or 10.0.0.0/8
    :3: server.trusted_proxies[3]: an address or a network, such as ::1 or 10.0.0.0/8
    :4: server.forwarded_header: "via" is none of "x-forwarded-for", "forwarded"
    :5: server.failed_logins.per_minute: 1 to 1000000
    "#);
    let server =
        file("server.trusted_proxies = [\"10.0.0.0/8\", \"::1\"]\nserver.failed_logins.burst = 0").config().server;
    assert_eq!(server.proxies.trusted.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.0/8", "::1/128"]);
    assert_eq!(server.failed_logins, None);
}

#[test]
fn origins_are_written_as_browsers_write_them() {
    let origins = |origins: &str| file(&format!("server.cors.origins = {origins}")).load();
    let config = |text: &str| origins(text).unwrap_or_else(|mistakes| panic!("{mistakes}")).config.server.cors;
    assert_eq!(config("[]"), None);
    assert_eq!(config(r#"["*"]"#).unwrap().origins, Origins::Any);
    let these = ["https://app.example", "http://localhost:3000", "http://[::1]:80000"].map(str::to_owned).to_vec();
    assert_eq!(config(&format!("{these:?}")).unwrap().origins, Origins::These(these));
    for wrong in [
        "app.example",
        "https://",
        "https://app.example/",
        "https://App.example",
        "null",
        "https://a:443",
        "http://a:80",
    ] {
        let mistakes = origins(&format!("[{wrong:?}]")).unwrap_err().to_string();
        assert!(mistakes.contains("server.cors.origins[0]: as browsers write it"), "{wrong}: {mistakes}");
    }
    let mistakes = origins(r#"["*", "https://app.example"]"#).unwrap_err().to_string();
    assert!(mistakes.ends_with("server.cors.origins: \"*\" is every origin, and stands alone"), "{mistakes}");
}
