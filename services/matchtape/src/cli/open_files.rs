//! How many files this process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit as far as the system allows without asking anybody; returns it, `None` for none. The usual soft limit of 1024
/// is for programs that use `select`, and a long history and many connections need more.
pub(super) fn raise() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        // It worked until now with what there is.
        Err(_) => current,
    }
}

/// Tables that a command which only reads keeps open, so that it goes on with them when a writer has removed their names: as many
/// as leave it the other half of the limit.
pub(super) fn tables_max() -> usize {
    raise().map_or(usize::MAX, |limit| usize::try_from(limit / 2).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_to_what_the_system_allows() {
        let maximum = getrlimit(Resource::Nofile).maximum;
        let few = Rlimit { current: Some(maximum.map_or(512, |maximum| maximum.min(512))), maximum };
        setrlimit(Resource::Nofile, few).unwrap();
        assert_eq!(raise(), maximum);
        assert_eq!(getrlimit(Resource::Nofile).current, maximum);
        assert_eq!(tables_max(), maximum.map_or(usize::MAX, |maximum| maximum as usize / 2));
    }
}
