//! Clusters are made and changed: flags for what is asked for often, `--set` for everything the API takes.

use super::{AREA, path};
use crate::client::Call;
use crate::commands::settings::{self, put, read};
use crate::context::Context;
use crate::output::{note, report::usage};
use clap::Args;
use nm_types::cluster::ClusterView;
use serde_json::{Map, Value, json};
use std::path::PathBuf;

const SETTINGS: &str = "\
A setting is a field of the API and its value, by its path:
  --set autoScaling.maxServers=15      --set healthCheck.path=/healthz
  --set 'routes=[{\"host\":\"a.example\"}]'  --set retries=       (back to its default)

";

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
A server is NAME[:PORT][,weight=N][,backup]; the port of a container is the one inside it.

Examples:
  neuralmesh clusters create shop web-1 web-2 web-3 --port 80
  neuralmesh clusters create shop web-1:8080,weight=3 web-2:8080 --algorithm weighted
  neuralmesh clusters create db pg-1:5432 pg-2:5432 --type high-availability --protocol tcp
  neuralmesh clusters create orders node-1 node-2 node-3 --type database --set database.name=orders
  neuralmesh clusters create shop web-1 --set autoScaling.targetCpuPercent=60 --set autoScaling.maxServers=5")]
pub struct CreateArgs {
    /// load-balanced, high-availability or database
    #[arg(long = "type", value_name = "TYPE", default_value = "load-balanced")]
    pub kind: String,
    /// round-robin, least-connections, ip-hash or weighted
    #[arg(long, value_name = "ALGORITHM")]
    pub algorithm: Option<String>,
    #[command(flatten)]
    pub settings: Settings,
    /// The cluster's name
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Names or ids of servers, with what is to be said of them
    #[arg(value_name = "SERVER", required = true, value_parser = server)]
    pub servers: Vec<Value>,
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  neuralmesh clusters set shop --set autoScaling.maxServers=15 --set autoScaling.targetCpuPercent=60
  neuralmesh clusters set shop --tls-certificate chain.pem --tls-key key.pem --port 443
  neuralmesh clusters set shop --acme shop.example.com --acme-agree --acme-email admin@example.com --port 443 --set redirectToHttps={}
  neuralmesh clusters set shop --rename store")]
pub struct SetArgs {
    /// Call it so
    #[arg(long, value_name = "NAME")]
    pub rename: Option<String>,
    /// round-robin, least-connections, ip-hash or weighted
    #[arg(long, value_name = "ALGORITHM")]
    pub algorithm: Option<String>,
    #[command(flatten)]
    pub settings: Settings,
    /// Name or id
    #[arg(value_name = "CLUSTER")]
    pub cluster: String,
}

#[derive(Debug, Clone, Args)]
pub struct Settings {
    /// The port of the entry [default: a free one is given]
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// http or tcp
    #[arg(long, value_name = "PROTOCOL")]
    pub protocol: Option<String>,
    /// A node that carries the entry, by name or id; may be repeated [default: chosen]
    #[arg(long = "entry", value_name = "NODE")]
    pub entries: Vec<String>,
    /// A file with the certificate chain in PEM form
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_certificate: Option<PathBuf>,
    /// A file with the certificate's private key in PEM form
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    pub tls_key: Option<PathBuf>,
    #[command(flatten)]
    pub acme: AcmeArgs,
    /// A field of the API and its value, as retries=5; may be repeated
    #[arg(long = "set", value_name = "FIELD=VALUE", value_parser = setting, long_help = SETTINGS)]
    pub set: Vec<(String, Value)>,
}

/// A certificate from an ACME server.
#[derive(Debug, Clone, Args)]
pub struct AcmeArgs {
    /// A name to get a certificate for from an ACME server, which looks at port 80 of the entry nodes; may be repeated
    #[arg(long = "acme", value_name = "HOST", requires = "acme_agree", conflicts_with = "tls_certificate")]
    pub acme_names: Vec<String>,
    /// Agree to the ACME server's terms of service
    #[arg(long)]
    pub acme_agree: bool,
    /// Where the ACME server may write to
    #[arg(long, value_name = "ADDRESS", requires = "acme_agree")]
    pub acme_email: Option<String>,
    /// The ACME server's directory [default: Let's Encrypt]
    #[arg(long, value_name = "URL", requires = "acme_agree")]
    pub acme_directory: Option<String>,
    /// A file with whom to trust as the ACME server, in PEM form [default: the public authorities]
    #[arg(long, value_name = "FILE", requires = "acme_agree")]
    pub acme_ca: Option<PathBuf>,
    /// The id of the key that binds the account to one made elsewhere, where the ACME server asks for it
    #[arg(long, value_name = "ID", requires_all = ["acme_agree", "acme_eab_key"])]
    pub acme_eab_id: Option<String>,
    /// A file with that key, in base64url
    #[arg(long, value_name = "FILE", requires = "acme_eab_id")]
    pub acme_eab_key: Option<PathBuf>,
}

impl AcmeArgs {
    fn into_body(self, body: &mut Map<String, Value>) -> anyhow::Result<()> {
        if !self.acme_names.is_empty() {
            put(body, "tls.serverNames", self.acme_names.into())?;
        }
        if self.acme_agree {
            put(body, "tls.acme.termsOfServiceAgreed", true.into())?;
        }
        let fields = [("tls.acme.email", self.acme_email), ("tls.acme.directory", self.acme_directory)];
        for (field, value) in fields.into_iter().chain([("tls.acme.externalAccount.keyId", self.acme_eab_id)]) {
            value.into_iter().try_for_each(|value| put(body, field, value.into()))?;
        }
        for (field, file) in [
            ("tls.acme.caCertificate", self.acme_ca),
            ("tls.acme.externalAccount.hmacKey", self.acme_eab_key),
        ] {
            file.into_iter().try_for_each(|file| put(body, field, read(&file)?.trim().into()))?;
        }
        Ok(())
    }
}

/// `web-1:8080,weight=3,backup` as the API takes it.
pub fn server(text: &str) -> Result<Value, String> {
    let mut parts = text.split(',');
    let first = parts.next().unwrap_or_default();
    let (name, port) = match first.split_once(':') {
        Some((name, port)) => (name, Some(port.parse::<u16>().map_err(|_| format!("`{port}` is no port"))?)),
        None => (first, None),
    };
    let mut out = json!({ "id": name });
    if let Some(port) = port {
        out["port"] = port.into();
    }
    for part in parts {
        match part.split_once('=') {
            Some(("weight", n)) => out["weight"] = n.parse::<u16>().map_err(|_| format!("`{n}` is no weight"))?.into(),
            None if part == "backup" => out["backup"] = true.into(),
            Some(_) | None => return Err(format!("`{part}` is neither weight=N nor backup")),
        }
    }
    // As the specification has it, where there is no more to say.
    Ok(if out.as_object().is_some_and(|o| o.len() == 1) {
        name.into()
    } else {
        out
    })
}

/// As [`settings::parse`]: a key is no setting.
fn setting(text: &str) -> Result<(String, Value), String> {
    settings::parse(
        text,
        &[("tls.key", "--tls-key"), ("tls.acme.externalAccount.hmacKey", "--acme-eab-key")],
    )
}

impl Settings {
    fn into_body(self, body: &mut Map<String, Value>) -> anyhow::Result<()> {
        if let Some(port) = self.port {
            body.insert("listenPort".into(), port.into());
        }
        if let Some(protocol) = self.protocol {
            body.insert("protocol".into(), protocol.into());
        }
        if !self.entries.is_empty() {
            body.insert("entryNodes".into(), self.entries.into());
        }
        if let (Some(certificate), Some(key)) = (&self.tls_certificate, &self.tls_key) {
            put(body, "tls.certificate", read(certificate)?.into())?;
            put(body, "tls.key", read(key)?.into())?;
        }
        self.acme.into_body(body)?;
        self.set.into_iter().try_for_each(|(field, value)| put(body, &field, value))
    }
}

pub async fn create(args: CreateArgs, cx: &Context) -> anyhow::Result<()> {
    let mut body = Map::new();
    body.insert("name".into(), args.name.into());
    body.insert("type".into(), args.kind.into());
    body.insert("servers".into(), args.servers.into());
    if let Some(algorithm) = args.algorithm {
        put(&mut body, "loadBalancer.algorithm", algorithm.into())?;
    }
    args.settings.into_body(&mut body)?;
    let view = cx.client.fetch::<ClusterView>(Call::create(&AREA).json(&body)?).await?;
    tell(&view.value);
    let shown = view.value.endpoint.clone().unwrap_or_else(|| view.value.name.to_string());
    cx.out.result(&view, &shown)?;
    Ok(())
}

pub async fn set(args: SetArgs, cx: &Context) -> anyhow::Result<()> {
    let mut body = Map::new();
    if let Some(name) = args.rename {
        body.insert("name".into(), name.into());
    }
    if let Some(algorithm) = args.algorithm {
        put(&mut body, "loadBalancer.algorithm", algorithm.into())?;
    }
    args.settings.into_body(&mut body)?;
    if body.is_empty() {
        return Err(usage("say what is to change, as --port 80 or --set retries=5"));
    }
    let call = Call::patch(&path(&[&args.cluster])).json(&body)?;
    let view = cx.client.fetch::<ClusterView>(call).await?;
    tell(&view.value);
    cx.out.result(&view, view.value.name.as_str())?;
    Ok(())
}

/// What keeps it from being as it should, for whoever just asked for it.
fn tell(cluster: &ClusterView) {
    for condition in &cluster.conditions {
        note(&condition.message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_written_short_and_long() {
        assert_eq!(server("web").unwrap(), json!("web"));
        assert_eq!(server("web:80").unwrap(), json!({ "id": "web", "port": 80 }));
        assert_eq!(
            server("web:80,weight=3,backup").unwrap(),
            json!({ "id": "web", "port": 80, "weight": 3, "backup": true })
        );
        for bad in ["web:x", "web:99999", "web,weight=x", "web,what"] {
            assert!(server(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_certificate_from_an_acme_server_is_asked_for_in_one_line() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            settings: Settings,
        }
        let parse = |line: &str| <Line as clap::Parser>::try_parse_from(["set"].into_iter().chain(line.split(' ')));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "a2V5\n").unwrap();
        let path = file.path().display();
        let line = format!(
            "--acme a.example --acme b.example --acme-agree --acme-email a@b.example --acme-directory https://ca.example/dir \
             --acme-ca {path} --acme-eab-id one --acme-eab-key {path}"
        );
        let mut body = Map::new();
        parse(&line).unwrap().settings.into_body(&mut body).unwrap();
        assert_eq!(
            Value::Object(body),
            json!({ "tls": { "serverNames": ["a.example", "b.example"], "acme": {
                "termsOfServiceAgreed": true, "email": "a@b.example", "directory": "https://ca.example/dir", "caCertificate": "a2V5",
                "externalAccount": { "keyId": "one", "hmacKey": "a2V5" },
            } } })
        );
        for bad in ["--acme a.example", "--acme-agree --acme-eab-id one", "--acme-email a@b.example"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn settings_go_where_their_path_says() {
        let mut body = Map::new();
        for text in [
            "autoScaling.maxServers=15",
            "autoScaling.enabled=true",
            "healthCheck.path=/up",
            "retries=",
            "name=\"5\"",
        ] {
            let (field, value) = setting(text).unwrap();
            put(&mut body, &field, value).unwrap();
        }
        assert_eq!(
            Value::Object(body.clone()),
            json!({ "autoScaling": { "maxServers": 15, "enabled": true }, "healthCheck": { "path": "/up" }, "retries": null, "name": "5" })
        );
        assert!(put(&mut body, "retries.x", json!(1)).is_err());
        for bad in ["retries", "=5", "a..b=1", "tls.key=hush", "tls.acme.externalAccount.hmacKey=hush"] {
            assert!(setting(bad).is_err(), "{bad}");
        }
    }
}
