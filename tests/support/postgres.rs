//! A PostgreSQL server of the tests' own: on loopback and a free port, in a folder that goes with it. It ends with the process that
//! has started it, however that ends.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

const USER: &str = "sluicegate";
pub const PASSWORD: &str = "geheim";

/// Until its standard input ends, which is when nobody has the other end any more.
const SCRIPT: &str = r#"
set -eu
bin=$1 port=$2 user=$3
folder=$(mktemp -d "${TMPDIR:-/tmp}/sluicegate-postgres.XXXXXX")
cd "$folder"
trap '"$bin/pg_ctl" -D cluster -m immediate stop >/dev/null 2>&1 || true; cd /; rm -rf "$folder"' EXIT
trap : INT TERM HUP
printf '%s' "$4" > password
"$bin/initdb" -D cluster -U "$user" -A scram-sha-256 --pwfile=password -E UTF8 --no-locale --no-sync > initdb.log 2>&1 || { cat initdb.log; exit 1; }
"$bin/pg_ctl" -D cluster -w -l server.log -o "-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories='$folder' -c max_connections=200" start > start.log 2>&1 || { cat start.log server.log; exit 1; }
echo ready
cat > /dev/null
"#;

struct Cluster {
    port: u16,
    bin: PathBuf,
    /// Its standard input is what keeps the server running.
    _keeper: Child,
}

/// One for all tests of this process.
static CLUSTER: OnceLock<Cluster> = OnceLock::new();
static SCHEMAS: AtomicUsize = AtomicUsize::new(0);

/// A schema that nobody else has, by URL.
pub fn fresh_url() -> String {
    let schema = format!("test_{}_{}", std::process::id(), SCHEMAS.fetch_add(1, Ordering::Relaxed));
    sql(&format!("CREATE SCHEMA {schema}"));
    url(USER, PASSWORD, "postgres", &schema)
}

pub fn url(user: &str, password: &str, database: &str, schema: &str) -> String {
    let port = cluster().port;
    format!("postgres://{user}:{password}@127.0.0.1:{port}/{database}?options=-c%20search_path%3D{schema}")
}

/// Says something to the server as an operator, and returns what it answers: a line per row.
pub fn sql(statement: &str) -> String {
    let cluster = cluster();
    let output = Command::new(cluster.bin.join("psql"))
        .args(["-h", "127.0.0.1", "-p", &cluster.port.to_string(), "-U", USER, "-d", "postgres"])
        .args(["-v", "ON_ERROR_STOP=1", "-X", "-q", "-t", "-A", "-c", statement])
        .env("PGPASSWORD", PASSWORD)
        .output()
        .expect("psql starts");
    assert!(output.status.success(), "{statement}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn cluster() -> &'static Cluster {
    CLUSTER.get_or_init(|| {
        let bin = programs();
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
        // The server does not run as root.
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "sh", "-c", SCRIPT, "sh"]);
            command
        } else {
            let mut command = Command::new("sh");
            command.args(["-c", SCRIPT, "sh"]);
            command
        };
        command.arg(&bin).arg(port.to_string()).args([USER, PASSWORD]).current_dir("/");
        let mut keeper =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell, and setpriv for root");
        let mut said = String::new();
        for line in BufReader::new(keeper.stdout.take().expect("its output")).lines() {
            let line = line.expect("text");
            if line == "ready" {
                return Cluster { port, bin, _keeper: keeper };
            }
            said.push_str(&line);
            said.push('\n');
        }
        let ended = keeper.wait().expect("it has ended");
        panic!("PostgreSQL does not start ({ended}): {said}");
    })
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().expect("id starts");
    id.stdout == b"0\n"
}

/// Where Debian and its kin have the programs of the newest version.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let version = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
    let newest = versions.filter_map(version).max();
    let newest = newest.expect("PostgreSQL is there: apt-get install postgresql (see .ci/run)");
    PathBuf::from(format!("/usr/lib/postgresql/{newest}/bin"))
}
