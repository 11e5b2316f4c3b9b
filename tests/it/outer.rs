//! The outer tests: the started program, real sockets and signals, the real engine with the built-in model, and OpenAI's
//! own clients.
//!
//! | module | asks |
//! | --- | --- |
//! | `protocol` | HTTP/1.1 and h2c on one port, the limits on heads, bodies and connections, compression |
//! | `greedy` | clients that take more than their part, or read nothing |
//! | `pace` | whether tokens reach the client one by one |
//! | `crash` | whether a task that was answered with 202 survives `kill -9` |
//! | `outage` | whether a gateway outlives its database |
//! | `embedding` | what a gateway that nobody has configured embeds and scores |
//! | `hang_up` | what is left of a task whose client has gone: nothing |
//! | `stalled` | whether a thousand clients that do not read hurt one that does |
//! | `shutdown`, `startup`, `logs` | the life of the process, and what it says |
//! | `reload` | whether a pool gets another model while it serves, and keeps its own where that is damaged |
//! | `catalog` | models that are added, verified, retired, removed, and pulled; and where none may come from |
//! | `commands` | the commands that operate a running gateway |
//! | `administration` | tenants, keys and usage from the command line, and what the configuration declares |
//! | `canary` | whether anything that is secret reaches the log |
//! | `tls` | TLS, and a certificate that is exchanged while the gateway serves |
//! | `remote` | a gateway in front of another one |
//! | `seeds` | whether a seed gives the same text alone and in a crowd |
//! | `rust_client`, `sdks` | async-openai here; the Python and Node clients, installed below the target folder |
//! | `goldens`, `recorder` | what each of those clients and of the frameworks over them sends |
//! | `schemathesis` | thousands of requests, good and bad, that a program makes from our OpenAPI documents |
//!
//! `SLUICEGATE_TEST_SDKS=off` leaves out the Python and Node clients and schemathesis, which need package registries once.

mod administration;
mod canary;
mod catalog;
mod commands;
mod crash;
mod embedding;
mod goldens;
mod greedy;
mod hang_up;
mod keys;
mod logs;
mod outage;
mod pace;
mod protocol;
mod recorder;
mod reload;
mod remote;
mod running;
mod rust_client;
mod schemathesis;
mod sdks;
mod seeds;
mod shutdown;
mod sight;
mod stalled;
mod startup;
mod tls;
mod wire;
