//! Line 17 of the security table, by the program itself: without its keys it does not start, and makes no new ones.

use crate::fleet::{Control, command, program};
use nm_waits::DEADLINE;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Starts the control plane on this folder; gives what it said when it ended.
async fn refused(data: &Path) -> String {
    let mut command = command(&program());
    command
        .args(["server", "--listen", "127.0.0.1:0", "--agent-listen", "127.0.0.1:0", "--data-dir"])
        .arg(data)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped());
    let ended = tokio::time::timeout(DEADLINE, command.output())
        .await
        .expect("it ends by itself")
        .unwrap();
    assert_eq!(ended.status.code(), Some(1));
    String::from_utf8(ended.stderr).unwrap()
}

#[tokio::test]
async fn without_its_key_file_it_does_not_start() {
    let mut control = Control::start("server").await;
    control.child.kill().await.unwrap();
    let (data, key) = (control.data(), control.data().join("secrets.key"));
    let kept = std::fs::read(&key).unwrap();

    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let said = refused(&data).await;
    assert!(said.contains("chmod 600"), "{said}");

    std::fs::remove_file(&key).unwrap();
    let said = refused(&data).await;
    assert!(said.contains("secrets.key"), "{said}");
    assert!(!key.exists(), "no new key was made");

    std::fs::write(&key, kept).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut command = command(&program());
    let mut child = command
        .args(["server", "--listen", "127.0.0.1:0", "--agent-listen", "127.0.0.1:0", "--data-dir"])
        .arg(&data)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut byte = [0];
    let said = tokio::io::AsyncReadExt::read(child.stdout.as_mut().unwrap(), &mut byte);
    assert_eq!(
        tokio::time::timeout(DEADLINE, said).await.unwrap().unwrap(),
        1,
        "with its key it starts as ever"
    );
    child.kill().await.unwrap();
}
