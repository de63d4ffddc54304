//! `neuralmesh proxy` alone, without the rest of the binary: quick to build where only the data plane is measured.
//!
//!     proxy proxy --config FILE --control-socket PATH [--workers N]

use nm_proxy::{AccessLogTo, Options};
use std::time::Duration;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut options = Options {
        config: "proxy.json".into(),
        control_socket: "proxy.sock".into(),
        workers: 1,
        grace: Duration::from_secs(30),
        handover_grace: Duration::from_secs(30),
        access_log: AccessLogTo::Stdout,
    };
    let mut args = std::env::args().skip(2);
    while let Some(arg) = args.next() {
        let value = args.next().ok_or_else(|| anyhow::anyhow!("{arg} needs a value"))?;
        match arg.as_str() {
            "--config" => options.config = value.into(),
            "--control-socket" => options.control_socket = value.into(),
            "--workers" => options.workers = value.parse()?,
            "--grace-ms" => options.grace = Duration::from_millis(value.parse()?),
            "--access-log" => options.access_log = AccessLogTo::File(value.into()),
            _ => anyhow::bail!("unknown option {arg}"),
        }
    }
    Ok(nm_proxy::run(options).await?)
}
