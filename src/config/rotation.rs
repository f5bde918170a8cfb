//! Reads the secret again on SIGHUP, so that a cluster changes its secret without a stop (docs/operations.md, "Changing
//! the secret"). Called by the node and by the daemon.
use std::io;

use crossbeam_channel::Receiver;
use log::{error, info};

use super::Config;
use crate::signing::Secret;

/// Starts a thread that reads the secret again after each hang-up, and hands it to `take`. A secret that cannot be read
/// or taken changes nothing: the keys stay as they are, and a line says why. Of the configuration nothing but the
/// secret is taken. Does nothing for a configuration without a secret: to begin or end with one needs a start.
///
/// # Errors
/// When the system gives no thread.
pub fn follow_secret(
    config: &Config,
    hangups: &Receiver<()>,
    take: impl Fn(&Secret) -> Result<(), String> + Send + 'static,
) -> io::Result<()> {
    let Ok(Some(secret)) = config.secret.as_deref().map(Secret::parse).transpose() else { return Ok(()) };
    info!("secret: {}", secret.nicknames(&config.cluster_name));
    let (hangups, path, cluster) = (hangups.clone(), config.path.clone(), config.cluster_name.clone());
    std::thread::Builder::new().name("secret".to_owned()).spawn(move || {
        for () in hangups {
            let read = Config::load(&path).map_err(|error| error.to_string()).and_then(|config| {
                let content =
                    config.secret.ok_or("cluster.secret_file is gone: to do without a secret, stop all")?;
                let secret = Secret::parse(&content)?;
                take(&secret).map(|()| secret)
            });
            match read {
                Ok(secret) => info!("secret: read again: {}", secret.nicknames(&cluster)),
                Err(why) => error!("secret: the keys stay as they are: {why}"),
            }
        }
    })?;
    Ok(())
}
