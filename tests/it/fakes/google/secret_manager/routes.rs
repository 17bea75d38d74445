//! Method and path to one of Secret Manager's calls. Pure.

use super::Refusal;

/// The calls of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Create,
    Get,
    List,
    Patch,
    Delete,
    AddVersion,
    Access,
    GetVersion,
    ListVersions,
    Enable,
    Disable,
    Destroy,
    GetPolicy,
    SetPolicy,
    TestPermissions,
}

impl Kind {
    /// The right that it needs.
    pub fn permission(self) -> &'static str {
        match self {
            Self::Create => "secretmanager.secrets.create",
            Self::Get | Self::TestPermissions => "secretmanager.secrets.get",
            Self::List => "secretmanager.secrets.list",
            Self::Patch => "secretmanager.secrets.update",
            Self::Delete => "secretmanager.secrets.delete",
            Self::AddVersion => "secretmanager.versions.add",
            Self::Access => "secretmanager.versions.access",
            Self::GetVersion => "secretmanager.versions.get",
            Self::ListVersions => "secretmanager.versions.list",
            Self::Enable => "secretmanager.versions.enable",
            Self::Disable => "secretmanager.versions.disable",
            Self::Destroy => "secretmanager.versions.destroy",
            Self::GetPolicy => "secretmanager.secrets.getIamPolicy",
            Self::SetPolicy => "secretmanager.secrets.setIamPolicy",
        }
    }
}

/// What a call is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub kind: Kind,
    pub project: String,
    /// Empty where there is none.
    pub secret: String,
    /// A number, `latest` or an alias; empty where there is none.
    pub version: String,
}

impl Target {
    pub fn parse(method: &str, path: &str) -> Option<Self> {
        let path = decoded(path);
        let (path, verb) = path
            .rsplit_once(':')
            .map_or((path.as_str(), ""), |(path, verb)| (path, verb));
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let (project, secret, version) = match parts[..] {
            ["v1", "projects", project, "secrets"] => (project, "", ""),
            ["v1", "projects", project, "secrets", secret] => (project, secret, ""),
            ["v1", "projects", project, "secrets", secret, "versions"] => (project, secret, "*"),
            [
                "v1",
                "projects",
                project,
                "secrets",
                secret,
                "versions",
                version,
            ] => (project, secret, version),
            _ => return None,
        };
        let kind = match (method, secret, version, verb) {
            ("GET", "", "", "") => Kind::List,
            ("POST", "", "", "") => Kind::Create,
            ("GET", _, "", "") => Kind::Get,
            ("PATCH", _, "", "") => Kind::Patch,
            ("DELETE", _, "", "") => Kind::Delete,
            ("POST", _, "", "addVersion") => Kind::AddVersion,
            ("GET", _, "", "getIamPolicy") => Kind::GetPolicy,
            ("POST", _, "", "setIamPolicy") => Kind::SetPolicy,
            ("POST", _, "", "testIamPermissions") => Kind::TestPermissions,
            ("GET", _, "*", "") => Kind::ListVersions,
            ("GET", _, _, "access") => Kind::Access,
            ("GET", _, _, "") => Kind::GetVersion,
            ("POST", _, _, "enable") => Kind::Enable,
            ("POST", _, _, "disable") => Kind::Disable,
            ("POST", _, _, "destroy") => Kind::Destroy,
            _ => return None,
        };
        Some(Self {
            kind,
            project: project.to_owned(),
            secret: secret.to_owned(),
            version: version.to_owned(),
        })
    }

    /// Google tells nobody without the right whether the thing is there.
    pub fn denied(&self) -> Refusal {
        let Self {
            project,
            secret,
            version,
            ..
        } = self;
        let resource = match (secret.as_str(), version.as_str()) {
            ("", _) => format!("projects/{project}"),
            (_, "" | "*") => format!("projects/{project}/secrets/{secret}"),
            _ => format!("projects/{project}/secrets/{secret}/versions/{version}"),
        };
        Refusal::new(
            403,
            "PERMISSION_DENIED",
            format!(
                "Permission '{}' denied for resource '{resource}' (or it may not exist).",
                self.kind.permission()
            ),
        )
    }
}

/// A field of the query, decoded; empty if absent.
pub fn field(query: &str, name: &str) -> String {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .find(|(field, _)| decoded(field) == name)
        .map_or_else(String::new, |(_, value)| decoded(&value.replace('+', " ")))
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let code = tail.get(..2).filter(|_| byte == b'%');
        let code = code.and_then(|code| std::str::from_utf8(code).ok());
        if let Some(code) = code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            bytes.push(code);
            rest = &tail[2..];
        } else {
            bytes.push(byte);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
