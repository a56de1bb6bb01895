//! Makes a script that shows a difference as short as it can be.

use super::script::{Script, What};

/// LIMIT: scripts tried; each is played twice.
const TRIALS: usize = 300;

/// Leaves out acts, then messages and cuts, as long as `differs` holds.
pub fn shrink(mut script: Script, mut differs: impl FnMut(&Script) -> bool) -> Script {
    let mut trials = 0;
    let mut try_out = |script: &mut Script, shorter: Script| {
        trials += 1;
        let is_shorter = trials <= TRIALS && differs(&shorter);
        if is_shorter {
            *script = shorter;
        }
        is_shorter
    };
    loop {
        let mut has_changed = false;
        for act in (0..script.acts.len()).rev() {
            let mut shorter = script.clone();
            shorter.acts.remove(act);
            has_changed |= try_out(&mut script, shorter);
        }
        for act in 0..script.acts.len() {
            let What::Send { messages, cuts } = &script.acts[act].what else { continue };
            let (messages, cuts) = (messages.len(), cuts.len());
            for cut in (0..cuts).rev() {
                let shorter = without(&script, act, |_, cuts| {
                    cuts.remove(cut);
                });
                has_changed |= try_out(&mut script, shorter);
            }
            for message in (0..messages).rev() {
                let shorter = without(&script, act, |messages, _| {
                    messages.remove(message);
                });
                has_changed |= try_out(&mut script, shorter);
            }
        }
        if !has_changed {
            return script;
        }
    }
}

fn without(
    script: &Script,
    act: usize,
    remove: impl FnOnce(&mut Vec<super::script::Message>, &mut Vec<usize>),
) -> Script {
    let mut shorter = script.clone();
    if let What::Send { messages, cuts } = &mut shorter.acts[act].what {
        remove(messages, cuts);
    }
    shorter
}
