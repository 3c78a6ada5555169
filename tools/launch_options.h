/*
 * launch_options.h: the options that `run` and `recover` share, turned into a watchdog's configuration.
 */
#ifndef PAWL_TOOLS_LAUNCH_OPTIONS_H
#define PAWL_TOOLS_LAUNCH_OPTIONS_H

#include "tools/cli.h"
#include "watchdog/watchdog.h"

/* 32 hexadecimal digits: recover only while the bearer of this token holds the job. Set by `pawl receive` for
 * the job that it starts. */
#define LAUNCH_HOLD_VARIABLE "PAWL_HOLD"
/* With it: the number of the socket by which the job that stands rebuilt is let go (watchdog_config.confirm_fd). */
#define LAUNCH_CONFIRM_VARIABLE "PAWL_CONFIRM"

struct launch_options {
	struct watchdog_config config; /* texts point into argv */
	char *metrics;                 /* config.metrics, owned */
	char **kept;                   /* "--interval=5m" …: what recover is to go on with; NULL-terminated */
	size_t n_kept;
	bool detach;
	bool verbose;
};

enum launch_key {
	LAUNCH_KEEP_HOURLY = CLI_OWN,
	LAUNCH_KEEP_DAILY,
	LAUNCH_RETRIES,
	LAUNCH_HANG_TIMEOUT,
	LAUNCH_STOP_EXIT_CODE,
	LAUNCH_COMPRESS,
	LAUNCH_TRACKER,
	LAUNCH_FILES,
	LAUNCH_MAX_FILE_SIZE,
	LAUNCH_SAVE_DIR,
	LAUNCH_ON_UNSUPPORTED,
	LAUNCH_CONNECTIONS,
	LAUNCH_BEFORE_SNAPSHOT,
	LAUNCH_AFTER_SNAPSHOT,
	LAUNCH_KEEP,
	LAUNCH_CPU_BASELINE, /* run */
	LAUNCH_MTBF,
	LAUNCH_LEAST_INTERVAL,
	LAUNCH_MOST_INTERVAL,
	LAUNCH_METRICS,
	LAUNCH_MEMORY,
	LAUNCH_NICE,
	LAUNCH_MAX_RATE,
	LAUNCH_ONCE,        /* run */
	LAUNCH_FRESH_START, /* run, attach */
	LAUNCH_STOPPED,     /* recover */
	LAUNCH_LAZY,        /* recover */
	LAUNCH_DRY_RUN,     /* recover */
	LAUNCH_FROM,        /* recover */
	LAUNCH_REPLICATE,
	LAUNCH_ON_FENCED,
};

/* clang-format off */
#define LAUNCH_OPTIONS                                                                              \
	{'i', "interval", "TIME",                                                                   \
	 "time between snapshots: 30s, 5m, 2h (default 5m);\n'never': only on request; 'auto': by what they cost"}, \
	{LAUNCH_MTBF, "mtbf", "TIME",                                                               \
	 "mean time between failures, for --interval=auto\n(default 1d)"},                          \
	{LAUNCH_LEAST_INTERVAL, "min-interval", "TIME",                                             \
	 "the least that --interval=auto may choose\n(default 10s)"},                               \
	{LAUNCH_MOST_INTERVAL, "max-interval", "TIME", "… and the most (default 1h)"},             \
	{'d', "detach", NULL, "return as soon as the job runs; its output\ngoes to its log only"},  \
	{LAUNCH_KEEP, "keep", "N", "keep the N newest snapshots (default: all)"},                   \
	{LAUNCH_KEEP_HOURLY, "keep-hourly", "N",                                                    \
	 "besides, the newest of each of N hours"},                                                 \
	{LAUNCH_KEEP_DAILY, "keep-daily", "N", "besides, the newest of each of N days"},            \
	{LAUNCH_RETRIES, "retries", "N",                                                            \
	 "when the job dies by a signal, roll it back and\ntry again, N times (default 0)"},        \
	{LAUNCH_HANG_TIMEOUT, "hang-timeout", "TIME",                                               \
	 "a job that uses no CPU for TIME counts as dead"},                                         \
	{LAUNCH_STOP_EXIT_CODE, "stop-exit-code", "N",                                              \
	 "exit status when stopped on request (default 85)"},                                       \
	{LAUNCH_COMPRESS, "compress", "CODEC", "lz4 (default), zstd or none"},                      \
	{LAUNCH_TRACKER, "tracker", "KIND",                                                         \
	 "how changed memory is found: auto (default),\npagemap, soft-dirty or none"},              \
	{LAUNCH_FILES, "files", "POLICY[:GLOB]",                                                    \
	 "what becomes of files the job writes: save\n(default), truncate, leave or fail; may be\n" \
	 "repeated, the last that matches a path holds"},                                           \
	{LAUNCH_MAX_FILE_SIZE, "max-file-size", "SIZE",                                             \
	 "refuse to save written files larger than this"},                                          \
	{LAUNCH_SAVE_DIR, "save-dir", "DIR",                                                        \
	 "everything below DIR belongs to the job, is saved\nand rolled back with it; may be repeated"}, \
	{LAUNCH_CONNECTIONS, "connections", "POLICY",                                               \
	 "connections to peers outside the job: refuse\n(default) to save them, or save them as reset"}, \
	{LAUNCH_ON_UNSUPPORTED, "on-unsupported", "WHAT",                                           \
	 "when something cannot be saved: warn (default)\nand go on, or fail: end the job with 125"}, \
	{LAUNCH_REPLICATE, "replicate", "DEST",                                                     \
	 "copy snapshots to DEST (dir:/PATH or\nssh://[USER@]HOST[/STORE]), behind the job's back;\n" \
	 "where it was resumed from there elsewhere, go on\nfrom that; may be repeated"},           \
	{LAUNCH_ON_FENCED, "on-fenced", "WHAT",                                                     \
	 "when the job was resumed elsewhere: stop (default)\nthis one, with 125, or warn"},         \
	{LAUNCH_BEFORE_SNAPSHOT, "before-snapshot", "CMD",                                          \
	 "run CMD (sh -c) before each snapshot;\nPAWL_JOB names the job"},                          \
	{LAUNCH_AFTER_SNAPSHOT, "after-snapshot", "CMD", "and this one after each"},                \
	{LAUNCH_MEMORY, "memory", "SIZE",                                                           \
	 "memory for copies of changed pages (default: a\nquarter of what is free)"},               \
	{LAUNCH_NICE, "nice", "N",                                                                  \
	 "how far hashing, compression and writing give\nway to the job: 0 to 19 or 'idle' (default 0)"}, \
	{LAUNCH_MAX_RATE, "max-rate", "SIZE",                                                       \
	 "read no more than SIZE a second for a snapshot\nwhile the job runs (default: no limit)"}, \
	{LAUNCH_METRICS, "metrics", "FILE",                                                         \
	 "keep pauses, sizes, ages and failures in FILE, in\nPrometheus' text format"},             \
	{'q', "quiet", NULL, "print warnings and errors only"},                                     \
	{'v', "verbose", NULL, "print what is being done"},                                         \
	CLI_OPTION_STORE, CLI_OPTION_ANY_FS, CLI_OPTION_HELP
/* clang-format on */

extern const struct cli_spec run_spec, attach_spec, recover_spec;

void launch_options_init(struct launch_options *options);
void launch_options_clear(struct launch_options *options);
/* The `set` of both specs; ctx is a struct launch_options. */
int launch_options_set(void *ctx, int key, const char *value, struct err *err);
/* Sets what an earlier launch kept; `kept` must live as long as the options. What this version does not know
 * is warned of and left out. */
void launch_options_recall(struct launch_options *options, char *const *kept);

/* Makes the directories above a store that is to be made. */
int launch_make_parent(const char *dir, struct err *err);
/* Runs the watchdog in this process, or detached from it. Prints its error. Returns the exit status. */
int launch(struct launch_options *options, const struct cli_args *args);
/* As launch, in a process of its own: returns once the job runs or has failed to. */
int launch_detached(const struct watchdog_config *config);

#endif
