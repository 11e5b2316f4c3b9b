//! A PostgreSQL server of the tests' own: on loopback and a free port, in a folder that goes with it. It ends with the process that
//! has started it, however that ends.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
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
options="-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories='$folder' -c max_connections=200"
if [ $# -gt 4 ]; then
  printf '%s' "$5" > server.crt
  (umask 077; printf '%s' "$6" > server.key)
  options="$options -c ssl=on -c ssl_cert_file='$folder/server.crt' -c ssl_key_file='$folder/server.key'"
fi
"$bin/pg_ctl" -D cluster -w -l server.log -o "$options" start > start.log 2>&1 || { cat start.log server.log; exit 1; }
echo ready
while read -r command; do
  case $command in
    stop) "$bin/pg_ctl" -D cluster -m immediate -w stop < /dev/null > /dev/null; echo stopped;;
    start) "$bin/pg_ctl" -D cluster -w -l server.log -o "$options" start < /dev/null > /dev/null; echo ready;;
  esac
done
"#;

pub struct Cluster {
    port: u16,
    bin: PathBuf,
    /// Its standard input is what keeps the server running.
    keeper: Child,
    said: BufReader<ChildStdout>,
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
    cluster().url(user, password, database, schema)
}

#[allow(dead_code, reason = "not every program that has this file stops a server")]
impl Cluster {
    /// Of a test's own, which may stop it.
    pub fn of_its_own() -> Self {
        start()
    }

    /// With this certificate and its key, in PEM form.
    pub fn encrypting(certificate: &str, key: &str) -> Self {
        start_with(&[certificate, key])
    }

    /// Of its schema that is there from the beginning.
    pub fn public_url(&self) -> String {
        self.url(USER, PASSWORD, "postgres", "public")
    }

    fn url(&self, user: &str, password: &str, database: &str, schema: &str) -> String {
        let port = self.port;
        format!("postgres://{user}:{password}@127.0.0.1:{port}/{database}?options=-c%20search_path%3D{schema}")
    }

    /// As a loss of power does, but for what is on the disk.
    pub fn stop(&mut self) {
        self.say("stop", "stopped");
    }

    pub fn start(&mut self) {
        self.say("start", "ready");
    }

    fn say(&mut self, command: &str, expected: &str) {
        let input = self.keeper.stdin.as_mut().expect("its input");
        writeln!(input, "{command}").expect("it reads");
        let mut said = String::new();
        self.said.read_line(&mut said).expect("text");
        assert_eq!(said.trim_end(), expected);
    }

    /// Says something to the server as an operator, and returns what it answers: a line per row.
    pub fn sql(&self, statement: &str) -> String {
        let output = Command::new(self.bin.join("psql"))
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", USER, "-d", "postgres"])
            .args(["-v", "ON_ERROR_STOP=1", "-X", "-q", "-t", "-A", "-c", statement])
            .env("PGPASSWORD", PASSWORD)
            .output()
            .expect("psql starts");
        assert!(output.status.success(), "{statement}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }
}

/// To the server that all tests share.
pub fn sql(statement: &str) -> String {
    cluster().sql(statement)
}

fn cluster() -> &'static Cluster {
    CLUSTER.get_or_init(start)
}

fn start() -> Cluster {
    start_with(&[])
}

fn start_with(certificate: &[&str]) -> Cluster {
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
    command.arg(&bin).arg(port.to_string()).args([USER, PASSWORD]).args(certificate).current_dir("/");
    let mut keeper =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell, and setpriv for root");
    let (mut said, mut all) = (BufReader::new(keeper.stdout.take().expect("its output")), String::new());
    while said.read_line(&mut all).expect("text") > 0 {
        if all.ends_with("ready\n") {
            return Cluster { port, bin, keeper, said };
        }
    }
    let ended = keeper.wait().expect("it has ended");
    panic!("PostgreSQL does not start ({ended}): {all}");
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
