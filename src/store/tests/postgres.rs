//! What PostgreSQL has of its own: sessions, schemas, and servers that cannot be used.

use super::super::*;
use super::{Place, cluster, task, told};

async fn refusal(url: &str) -> String {
    let location = Location::Postgres(DatabaseUrl::parse(url).expect("a URL"));
    let message = Store::open(&location, &Lifecycle::new()).await.err().expect("a refusal").to_string();
    assert!(!message.contains('\n') && !message.contains(cluster::PASSWORD), "{message}");
    message
}

#[tokio::test]
async fn a_second_gateway_on_a_schema_is_refused_and_one_on_another_is_not() {
    let (place, other) = (Place::postgres(), Place::postgres());
    let store = place.open().await;
    other.open().await.close().await;
    let second = Store::open(&place.location, &Lifecycle::new()).await;
    let message = second.err().expect("a refusal").to_string();
    assert!(
        message.contains("is in use by another gateway (session ")
            && message.contains(" of the server, from 127.0.0.1)"),
        "{message}"
    );
    store.close().await;
    place.open().await.close().await;
}

#[tokio::test]
async fn what_cannot_be_used_is_said_in_one_line() {
    let url = cluster::fresh_url();
    let port = url.split(':').nth(3).and_then(|rest| rest.split('/').next()).expect("a port").to_owned();
    let place = |database: &str| format!("cannot open the store database {database} on 127.0.0.1:{port}: ");
    assert_eq!(
        refusal(&cluster::url("sluicegate", "wrong", "postgres", "public")).await,
        place("postgres") + "password authentication failed for user \"sluicegate\""
    );
    assert_eq!(
        refusal(&cluster::url("sluicegate", cluster::PASSWORD, "absent", "public")).await,
        place("absent") + "database \"absent\" does not exist"
    );
    assert_eq!(
        refusal(&cluster::url("sluicegate", cluster::PASSWORD, "postgres", "absent")).await,
        place("postgres") + "no schema of its search_path is there"
    );
    let closed = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
    let away = refusal(&format!("postgres://sluicegate:geheim@127.0.0.1:{closed}/sluicegate")).await;
    assert!(away.contains("error connecting to server: Connection refused"), "{away}");
}

#[tokio::test]
async fn a_database_with_another_encoding_or_of_a_later_version_is_refused() {
    cluster::sql("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0");
    let latin = refusal(&cluster::url("sluicegate", cluster::PASSWORD, "latin", "public")).await;
    assert!(latin.ends_with("its encoding is LATIN1; it has to be UTF8"), "{latin}");

    let url = cluster::fresh_url();
    let location = Location::Postgres(DatabaseUrl::parse(&url).expect("a URL"));
    Store::open(&location, &Lifecycle::new()).await.expect("a store").close().await;
    let schema = url.rsplit("%3D").next().expect("a schema");
    cluster::sql(&format!("INSERT INTO {schema}.store_migrations VALUES (9999, '')"));
    let later = refusal(&url).await;
    assert!(later.ends_with("a later version of the gateway has used it"), "{later}");
    cluster::sql(&format!("DELETE FROM {schema}.store_migrations WHERE version = 9999"));
    cluster::sql(&format!("UPDATE {schema}.store_migrations SET checksum = '' WHERE version = 1"));
    let other = refusal(&url).await;
    assert!(other.ends_with("table file 1 is not the one that it was made with"), "{other}");
}

#[test]
fn a_url_shows_itself_without_its_password() {
    let url = DatabaseUrl::parse("postgres://me:geheim@host:5433/db?options=-c%20search_path%3Dx").expect("a URL");
    assert_eq!(format!("{url} {url:?}"), "database db on host:5433 DatabaseUrl(database db on host:5433)");
    let location = format!("{:?}", Location::Postgres(url));
    assert!(!location.contains("geheim"), "{location}");
    for (wrong, needle) in [
        ("postgres://host/db", "the user is missing"),
        ("postgres://me:geheim@host", "the database is missing"),
        ("postgres://me:geheim@/db", "the host is missing"),
        ("postgres://me:gehe/im@host:x/db", "write postgres://"),
        ("postgres://me:geheim@host/db?sslmode=prefer", "sslmode is disable"),
        ("postgres://me:geheim@host/db?sslmode=require&sslrootcert=/ca.pem", "sslrootcert is for sslmode=verify-full"),
    ] {
        let mistake = DatabaseUrl::parse(wrong).expect_err("a mistake");
        assert!(mistake.contains(needle) && !mistake.contains("geheim"), "{wrong}: {mistake}");
    }
}

#[tokio::test]
async fn a_lost_session_ends_the_gateway_and_the_next_one_has_what_was_answered() {
    let (place, lifecycle) = (Place::postgres(), Lifecycle::new());
    let store = Store::open(&place.location, &lifecycle).await.expect("a store");
    let (done, durable) = told();
    store.task_accepted(task(1), None, HeldRows::default(), done);
    assert_eq!(durable.await, Ok(Ok(())));
    cluster::sql(&format!(
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objid::bigint = \
         (SELECT oid::bigint FROM pg_namespace WHERE nspname = '{}')",
        place.schema()
    ));
    lifecycle.draining().cancelled().await;
    assert!(lifecycle.failed());
    let (done, refused) = told();
    store.task_accepted(task(2), None, HeldRows::default(), done);
    assert!(matches!(refused.await, Ok(Err(StoreError::Failed(_)))));
    store.close().await;
    let next = place.open().await;
    assert_eq!(next.tasks().await, Ok(vec![task(1)]));
}

#[tokio::test]
async fn a_connection_is_encrypted_where_that_is_wanted_and_the_server_is_who_it_should_be() {
    let folder = tempfile::tempdir().expect("a folder");
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let (own, others) = (folder.path().join("own.pem"), folder.path().join("others.pem"));
    std::fs::write(&own, made.cert.pem()).expect("room");
    std::fs::write(&others, other.cert.pem()).expect("room");
    let server = cluster::Cluster::encrypting(&made.cert.pem(), &made.signing_key.serialize_pem());
    let encrypted = "SELECT COUNT(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                     WHERE ssl AND application_name = 'sluicegate'";
    let full = format!("&sslmode=verify-full&sslrootcert={}", own.display());
    for (how, sessions) in [("", "0"), ("&sslmode=disable", "0"), ("&sslmode=require", "1"), (&full, "1")] {
        let location = Location::Postgres(DatabaseUrl::parse(&(server.public_url() + how)).expect("a URL"));
        let store = Store::open(&location, &Lifecycle::new()).await.unwrap_or_else(|error| panic!("{how}: {error}"));
        assert_eq!(server.sql(encrypted).trim(), sessions, "{how}");
        store.close().await;
        // The server has yet to see the end of it.
        while server.sql(encrypted).trim() != "0" {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
    let strange =
        refusal(&format!("{}&sslmode=verify-full&sslrootcert={}", server.public_url(), others.display())).await;
    assert!(strange.contains("certificate"), "{strange}");
    let absent = refusal(&(server.public_url() + "&sslmode=verify-full&sslrootcert=/no/such/file")).await;
    assert!(absent.contains("/no/such/file cannot be read"), "{absent}");
    let elsewhere = server.public_url().replace("127.0.0.1", "localhost");
    let misnamed = refusal(&format!("{elsewhere}{full}")).await;
    assert!(misnamed.contains("certificate"), "{misnamed}");
    let plain = refusal(&(cluster::fresh_url() + "&sslmode=require")).await;
    assert!(plain.contains("does not support TLS"), "{plain}");
}
