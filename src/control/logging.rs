//! What the configuration says about the log.

use crate::config::{General, LogFormat};
use crate::log::{Settings, Tag, Target};

/// Says what is logged, how, and where to.
pub fn log_settings(general: &General) -> Settings {
    let log = &general.log;
    let level = match log.verbose {
        0 => general.log_level.clone(),
        1 => "debug".to_owned(),
        _ => "trace".to_owned(),
    };
    let tag = || Tag { ident: log.syslog_ident.clone(), facility: log.syslog_facility.clone() };
    let target = Target { file: log.logfile.clone(), syslog: log.syslog.then(tag) };
    Settings { level, is_json: log.log_format == LogFormat::Json, target }
}
