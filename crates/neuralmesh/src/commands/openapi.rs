//! `neuralmesh openapi`

use crate::cli::ClientArgs;
use crate::client::Call;
use crate::context::Context;
use clap::Args;
use std::io::Write;

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  neuralmesh openapi > neuralmesh.json")]
pub struct OpenapiArgs {
    #[command(flatten)]
    pub client: ClientArgs,
}

pub async fn openapi(args: OpenapiArgs) -> anyhow::Result<u8> {
    let cx = Context::new(&args.client)?;
    let document = cx.client.download(Call::get(&["openapi.json"])).await?;
    let text = document.text().await?;
    writeln!(std::io::stdout().lock(), "{}", crate::output::json::pretty(&text))?;
    Ok(0)
}
