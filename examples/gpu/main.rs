//! What a GPU's engine and the gateway before it do: makes models of real shapes, measures both sides, and says so.
//!
//! `README.md` beside this file says how to run it and how to read what it prints.

use std::error::Error;
use std::path::PathBuf;

use clap::Parser as _;
use tokio::runtime::{Builder, Runtime};

mod conduct;
mod gateway;
mod machine;
mod make;
mod measure;
mod report;
mod rounds;
mod shape;
mod sides;

#[path = "../common/listen.rs"]
mod listen;
#[path = "../common/quantile.rs"]
mod quantile;

/// As the program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

pub type Failure = Box<dyn Error + Send + Sync>;

/// The id of the one model, and of its pool.
pub const MODEL: &str = "model";

/// Makes models of real shapes with random weights, and measures what runs them.
#[derive(Debug, clap::Parser)]
enum Command {
    /// Writes a model with random weights, as large and as fast as a real one.
    Make {
        /// Its sizes are those of
        shape: shape::Shape,
        folder: PathBuf,
    },
    /// Measures the engine by itself and through the gateway, in turns.
    Measure(Measure),
}

#[derive(Debug, clap::Args)]
pub struct Measure {
    /// Folders with models, one after the other.
    #[arg(required = true)]
    models: Vec<PathBuf>,
    /// Where they run: cuda:0 and so on, or cpu.
    #[arg(long, default_value = "cuda:0")]
    device: String,
    /// The gateway's configuration, whose first pool gets the model, the device, and its part of the memory.
    #[arg(long, value_name = "FILE", default_value = "examples/gpu/gpu.toml")]
    config: PathBuf,
    /// About how long streams are measured for each model, all numbers at once together: each has a few rounds at least. What
    /// else is looked at comes on top.
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
    /// Writes everything to this file, as JSON, beside printing tables; after each model what there is so far.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What was built, to be noted with the figures.
    #[arg(long, default_value = "unknown")]
    commit: String,
}

/// Where both sides' work is done.
pub struct Runtimes {
    pub gateway: Runtime,
    /// The clients have a thread of their own, as if they were another program.
    pub clients: Runtime,
}

fn main() -> Result<(), Failure> {
    match Command::parse() {
        Command::Make { shape, folder } => make::make(shape, &folder),
        Command::Measure(arguments) => {
            let runtimes = Runtimes {
                gateway: Builder::new_multi_thread().enable_all().build()?,
                clients: Builder::new_multi_thread().worker_threads(1).enable_all().build()?,
            };
            let report = measure::measure(&arguments, &runtimes)?;
            print!("{report}");
            if report.failed.is_empty() { Ok(()) } else { Err("not all could be measured".into()) }
        }
    }
}
