//! A client of an API server, and namespaces that last as long as a test.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{LIMIT, wait_until};
use crate::servers::tool;

/// kubectl with the rights of a kubeconfig.
#[derive(Debug)]
pub struct Kubectl {
    kubeconfig: PathBuf,
}

impl Kubectl {
    /// A client with the rights of `kubeconfig`.
    pub fn new(kubeconfig: PathBuf) -> Self {
        Self { kubeconfig }
    }

    /// The file that tells clients where the server is and who they are.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Prepares a call.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(tool("kubectl"));
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(arguments);
        command.env("KUBECACHEDIR", self.kubeconfig.with_extension("cache"));
        command
    }

    /// Runs it; returns what it printed, or what it complained about.
    ///
    /// # Errors
    /// It failed.
    pub fn try_run(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        let mut command = self.command(arguments);
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // Who does not read its input says why on standard error.
        drop(child.stdin.take().expect("it is a pipe").write_all(input.as_bytes()));
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Runs it; returns what it printed.
    ///
    /// # Panics
    /// It failed.
    pub fn run(&self, arguments: &[&str]) -> String {
        self.try_run(arguments, "").unwrap_or_else(|error| panic!("kubectl {}: {error}", arguments.join(" ")))
    }

    /// Applies an object; a field that its kind does not have is an error.
    ///
    /// # Errors
    /// The server's, as kubectl prints it.
    pub fn try_apply(&self, object: &Value) -> Result<String, String> {
        self.try_run(&["apply", "--validate=strict", "-f", "-"], &object.to_string())
    }

    /// The same for an object that must be accepted.
    ///
    /// # Panics
    /// It was not.
    pub fn apply(&self, object: &Value) {
        self.try_apply(object).unwrap_or_else(|error| panic!("apply {object}: {error}"));
    }

    /// Waits until the server serves all kinds that it has definitions of.
    pub fn wait_for_definitions(&self) {
        // kubectl's own wait fails on a definition that has no status yet.
        wait_until("all definitions to be established", || {
            let found = self.run(&["get", "crd", "-o", "json"]);
            let found: Value = serde_json::from_str(&found).unwrap();
            let established = |definition: &Value| {
                let conditions = definition["status"]["conditions"].as_array();
                conditions.into_iter().flatten().any(|said| said["type"] == "Established" && said["status"] == "True")
            };
            found["items"].as_array().unwrap().iter().all(established).then_some(())
        });
    }
}

/// A namespace. Dropping it deletes it.
#[derive(Debug)]
pub struct Namespace<'a> {
    kubectl: &'a Kubectl,
    name: String,
}

impl<'a> Namespace<'a> {
    pub(super) fn create(kubectl: &'a Kubectl, has_controllers: bool) -> Self {
        let made = Self { kubectl, name: format!("test-{:08x}", rand::random::<u32>()) };
        kubectl.run(&["create", "namespace", &made.name]);
        if has_controllers {
            // Without it no pod is admitted.
            made.wait("serviceaccount/default", "create");
        }
        made
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs kubectl in it; returns what it printed.
    pub fn run(&self, arguments: &[&str]) -> String {
        self.kubectl.run(&[&["--namespace", &self.name], arguments].concat())
    }

    /// Applies an object in it.
    pub fn apply(&self, mut object: Value) {
        object["metadata"]["namespace"] = json!(self.name);
        self.kubectl.apply(&object);
    }

    /// Returns an object, as `pod/x`, or the list of a kind.
    pub fn get(&self, what: &str) -> Value {
        serde_json::from_str(&self.run(&["get", what, "-o", "json"])).unwrap()
    }

    /// Waits for what `kubectl wait --for` can wait for, as `condition=Ready`, `create`, `jsonpath={.status.phase}=Bound`.
    pub fn wait(&self, what: &str, condition: &str) {
        let timeout = format!("--timeout={}s", LIMIT.as_secs());
        self.run(&["wait", what, &format!("--for={condition}"), &timeout]);
    }

    /// Waits until a pod has ended well; returns what it printed.
    pub fn wait_for_pod(&self, name: &str) -> String {
        self.wait(&format!("pod/{name}"), "jsonpath={.status.phase}=Succeeded");
        self.run(&["logs", name])
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        let kubectl = |arguments: &[&str]| {
            let arguments = [&["--namespace", &self.name], arguments].concat();
            self.kubectl.try_run(&arguments, "").unwrap_or_else(|error| error)
        };
        if std::thread::panicking() {
            eprintln!("--- in the namespace\n{}", kubectl(&["get", "all,persistentvolumeclaims", "-o", "wide"]));
            eprintln!("{}", kubectl(&["get", "events", "--sort-by=.lastTimestamp"]));
            eprintln!(
                "{}",
                kubectl(&["get", "pods", "-o", "jsonpath={range .items[*]}{.metadata.name} {.status}{'\\n'}{end}"])
            );
            super::print_logs();
        }
        kubectl(&["delete", "namespace", &self.name, "--wait=false"]);
    }
}
