// Package config reads the archiver's configuration once, at start, checks all
// of it, and hands out typed values in which inheritance is already resolved.
// It is the only importer of viper.
//
// # Where a value comes from
//
// One YAML file: Options.File, else ARCHIVER_CONFIG, else ./archiver.yaml, else
// /etc/archiver/archiver.yaml. A value is looked up as flag, then environment,
// then file, then built-in default. The environment variable of a key is
// ARCHIVER_ and the path in upper case with `_` between its parts; items of a
// list are reached by index: ARCHIVER_DATABASES_0_PASSWORD. As in viper, an empty
// variable counts as unset. A misspelt variable of one of our sections is an
// error; the variables that Kubernetes adds for a service of the same name
// (ARCHIVER_UI_SERVICE_HOST) are passed over.
//
// Inside the file, ${NAME} and ${NAME:-default} in a value stand for a variable
// of the environment (the default also where it is empty) and may give numbers,
// switches and durations too. $${ is a literal ${. What a variable holds is not
// expanded again.
//
// # Inheritance
//
// Every key of `defaults` may stand on a database and on a table; the nearest
// wins. The maps adaptive_batch and throttle are merged key by key; a list (allow,
// windows) is replaced as a whole. Two groups stand where they have a meaning and
// nowhere else: parallel_databases and max_parallel_databases in `defaults`,
// connection_pool_size and concurrency in `defaults` or on a database, because
// the pool and the seats are shared by all tables of a database.
//
// # Units
//
// Durations take Go's units and d, a day of 24 hours, which comes first: 90d,
// 1d12h. A number without a unit is an error: 30 once meant 30 nanoseconds, which
// would archive everything. Sizes take B, KB, MB, GB (powers of 1000) and KiB,
// MiB, GiB (powers of 1024). The keys that end in _mb count units of 1024 x 1024
// bytes, as the limits of S3 and the sizes of Postgres do.
//
// compression_level is 1 to 9 for gzip and 1 to 22, zstd's own scale, for zstd
// (the Go library has four speeds and takes the one nearest to the level); 0 is
// the encoder's default, and `none` has no level.
//
// # Failure
//
// Load either returns a Config that satisfies every rule, or an *Error that lists
// all problems at once as `path: problem (got value)`, or a *NotFoundError. In
// particular each Table has a Retention that somebody wrote down, at least as long
// as a MinRetention greater than zero: a retention is never guessed. Anchors and
// aliases of YAML are refused, as `defaults` does their work.
//
// Secrets are of type Secret, which prints as ***. A problem never shows the value
// of a secret, of a key that is not known (it may be a misspelt password), or of
// an expanded variable.
package config
