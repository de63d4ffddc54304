//! A control plane and an agent on loopback, and the API between them and the test.

use nm_waits::{DEADLINE, eventually};
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

pub fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_neuralmesh"))
}

/// A program of ours without anything of this environment that it would read.
pub fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("NEURALMESH_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true);
    command
}

pub struct Control {
    pub dir: TempDir,
    pub child: Child,
    api: String,
    pub agents: String,
    token: String,
    http: Client,
}

impl Control {
    /// `neuralmesh server`, or `up` with this machine as a node.
    pub async fn start(verb: &str) -> Self {
        Self::start_with(verb, &[]).await
    }

    pub async fn start_with(verb: &str, environment: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut child = command(&program())
            .args([verb, "--listen", "127.0.0.1:0", "--agent-listen", "127.0.0.1:0", "--data-dir"])
            .arg(dir.path().join("data"))
            .env("NEURALMESH_DOCKER_SOCKET", dir.path().join("no-docker.sock"))
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let said = tokio::time::timeout(DEADLINE, lines.next_line()).await.unwrap().unwrap();
        let said = said.expect("the control plane says where it is");
        let after = |word: &str| {
            said.split(word)
                .nth(1)
                .and_then(|rest| rest.split([',', ' ']).next())
                .unwrap()
                .to_owned()
        };
        let mut this = Self {
            api: after("API at "),
            agents: format!("https://{}", after("agents at ")),
            dir,
            child,
            token: String::new(),
            http: Client::builder().no_proxy().build().unwrap(),
        };
        let password = std::fs::read_to_string(this.data().join("initial-admin-password")).unwrap();
        let login = json!({ "username": "admin", "password": password.trim_end() });
        let signed_in = this.call(Method::POST, "/api/auth/login").json(&login).send().await.unwrap();
        this.token = data(signed_in).await["accessToken"].as_str().unwrap().to_owned();
        this
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn call(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.api)).bearer_auth(&self.token)
    }

    pub async fn get(&self, path: &str) -> Value {
        data(self.call(Method::GET, path).send().await.unwrap()).await
    }

    pub async fn post(&self, path: &str) -> Value {
        data(self.call(Method::POST, path).send().await.unwrap()).await
    }

    /// Uploads an executable for this machine.
    pub async fn upload(&self, version: &str, file: &Path) -> Value {
        let path = format!("/api/nodes/binaries/linux-{}?version={version}", std::env::consts::ARCH);
        let bytes = std::fs::read(file).unwrap();
        let sent = self
            .call(Method::PUT, &path)
            .header("content-type", "application/octet-stream")
            .body(bytes);
        data(sent.send().await.unwrap()).await
    }

    /// Begins to upgrade a node; gives the operation's id.
    pub async fn begin_upgrade(&self, node: &str) -> String {
        let begun = self
            .call(Method::POST, &format!("/api/nodes/{node}/upgrade"))
            .header("prefer", "respond-async");
        data(begun.send().await.unwrap()).await["id"].as_str().unwrap().to_owned()
    }

    /// An operation, once it has ended.
    pub async fn ended(&self, operation: &str) -> Value {
        eventually("the operation ends", async || {
            let operation = self.get(&format!("/api/operations/{operation}")).await;
            let ended = matches!(operation["state"].as_str(), Some("succeeded" | "failed" | "cancelled"));
            ended.then_some(operation)
        })
        .await
    }
}

/// `data` of a good answer.
pub async fn data(response: Response) -> Value {
    let status = response.status();
    let body: Value = response.json().await.unwrap();
    assert!(status.is_success(), "{status}: {body}");
    body["data"].clone()
}

/// An agent as somebody starts it by hand.
pub struct Agent {
    pub dir: TempDir,
    /// What was installed.
    pub installed: PathBuf,
    pub child: Child,
}

impl Agent {
    /// A machine joins; waits until it is connected.
    pub async fn join(control: &Control, within: u32) -> Self {
        let token = control.post("/api/nodes/join-tokens").await;
        let dir = tempfile::tempdir().unwrap();
        let installed = dir.path().join("neuralmesh");
        // A link, for the sake of the disk: what the agent never does is write to it.
        std::fs::hard_link(program(), &installed)
            .or_else(|_| std::fs::copy(program(), &installed).map(drop))
            .unwrap();
        let child = Self::spawn(&dir, &installed, control, within, token["token"].as_str());
        let this = Self { dir, installed, child };
        this.connected(control).await;
        this
    }

    fn spawn(dir: &TempDir, installed: &Path, control: &Control, within: u32, token: Option<&str>) -> Child {
        let mut command = command(installed);
        command
            .args(["agent", "--server", &control.agents, "--name", "alder", "--data-dir"])
            .arg(dir.path().join("data"))
            .env("NEURALMESH_DOCKER_SOCKET", dir.path().join("no-docker.sock"))
            .env("NEURALMESH_UPGRADE_WITHIN", within.to_string())
            .stdout(Stdio::null());
        if let Some(token) = token {
            command.env("NEURALMESH_JOIN", token);
        }
        command.spawn().unwrap()
    }

    /// Ends it as `kill -9` does, and starts what is installed again.
    pub async fn start_again(&mut self, control: &Control) {
        self.child.kill().await.unwrap();
        self.child = Self::spawn(&self.dir, &self.installed, control, 60, None);
        self.connected(control).await;
    }

    pub fn pid(&self) -> u32 {
        self.child.id().expect("the agent runs")
    }

    /// Waits until the control plane reaches it.
    pub async fn connected(&self, control: &Control) {
        eventually("the node is connected", async || {
            // It has no engine: that it says so says that it is there.
            let asked = control.call(Method::GET, "/api/images?nodeId=alder").send().await.unwrap();
            let answer: Value = asked.json().await.unwrap();
            (answer["code"] == "docker_unavailable").then_some(())
        })
        .await;
    }

    /// The file that its process runs.
    pub fn runs(&self) -> PathBuf {
        std::fs::read_link(format!("/proc/{}/exe", self.pid())).unwrap()
    }

    pub fn bin(&self) -> PathBuf {
        self.dir.path().join("data/agent/bin")
    }

    /// What it keeps of upgrades.
    pub fn state(&self) -> Value {
        let text = std::fs::read(self.bin().join("state.json")).unwrap_or_else(|_| b"{}".to_vec());
        serde_json::from_slice(&text).unwrap()
    }

    /// Processes that it has started and that live.
    pub fn children(&self) -> usize {
        let path = format!("/proc/{0}/task/{0}/children", self.pid());
        std::fs::read_to_string(path).map_or(0, |text| text.split_whitespace().count())
    }
}
