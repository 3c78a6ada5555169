/*
 * cli.h: what the subcommands share: options, operands, help, messages.
 *
 * A subcommand is described by a struct cli_spec, from which both the parser and --help are made,
 * so the two cannot disagree. Options are GNU style (getopt_long); "--" ends them.
 *
 * Exit statuses: 0 done, 1 failed, 2 misuse; run and recover have their own (watchdog.h).
 */
#ifndef PAWL_TOOLS_CLI_H
#define PAWL_TOOLS_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "store/base/err.h"
#include "store/store.h"

#define EXIT_MISUSE 2

/* Keys of options that every command means the same way; cli_parse sets struct cli_args itself. A
 * command's own options have their letter as key, or a number from CLI_OWN on where they have none.
 */
enum cli_key {
	CLI_HELP = 256,
	CLI_STORE,
	CLI_JSON,
	CLI_ANY_FS,
	CLI_OWN = 512,
};

struct cli_option {
	int key;
	const char *name;  /* long name, without "--" */
	const char *value; /* how help calls its value; NULL: it takes none */
	const char *help;  /* may have several lines */
};

#define CLI_OPTION_HELP                                                                            \
	{                                                                                          \
		CLI_HELP, "help", NULL, "show this help"                                           \
	}
#define CLI_OPTION_JSON                                                                            \
	{                                                                                          \
		CLI_JSON, "json", NULL, "print JSON"                                               \
	}
#define CLI_OPTION_STORE                                                                           \
	{                                                                                          \
		CLI_STORE, "store", "DIR",                                                         \
			"the store (default $PAWL_STORE, "                                         \
			"else\n${XDG_STATE_HOME:-~/.local/state}/pawl)"                            \
	}
#define CLI_OPTION_ANY_FS                                                                          \
	{                                                                                          \
		CLI_ANY_FS, "any-fs", NULL,                                                        \
			"use a store on a network file system, whose\nlocks may not hold"          \
	}
#define CLI_OPTION_END                                                                             \
	{                                                                                          \
		0, NULL, NULL, NULL                                                                \
	}

#define CLI_MAX_OPTIONS 40

struct cli_spec {
	const char *name;
	const char *operands; /* as in usage: "JOB[@N]" */
	const char *about;    /* one or more sentences for --help, lines broken */
	const struct cli_option *options;
	int least, most; /* operands; most -1: any number */
	bool in_order;	 /* the first operand ends the options: it is a command with its own */
	/* Takes one of the command's own options. -1 with err set on a bad value. */
	int (*set)(void *ctx, int key, const char *value, struct err *err);
};

struct cli_args {
	bool help, json, any_fs;
	const char *store; /* as given, NULL: not given */
	char **operands;   /* into argv (which getopt_long may have reordered), NULL-terminated */
	int n_operands;
};

/* argv[0] is the command's name. -1: misuse, err says which. Prints nothing. */
int cli_parse(const struct cli_spec *spec, int argc, char **argv, void *ctx, struct cli_args *ret,
	      struct err *err);
/* cli_parse with its consequences: prints help, or the misuse. False: exit with *ret_exit. */
bool cli_begin(const struct cli_spec *spec, int argc, char **argv, void *ctx, struct cli_args *ret,
	       int *ret_exit);
void cli_print_help(const struct cli_spec *spec);

/* Where the store is: args, environment, default. Pure but for getenv and the password database. */
int cli_store_dir(const struct cli_args *args, char *buf, size_t len, struct err *err);
/* Opens it. flags: STORE_READ or STORE_WRITE; --any-fs is added. */
int cli_open_store(const struct cli_args *args, int flags, struct store **ret, struct err *err);

/* store_job_get that says where it looked, and what to do next. */
int cli_get_job(struct store *store, const char *name, struct job_info *ret, struct err *err);

/* Prints "pawl: what: why" and what to do next where there is something. Returns the exit status: 2
 * for ERR_INVALID, else 1. */
int cli_fail(const struct err *err);

/* stdout was written whole (a full disk, a closed pipe): EXIT_SUCCESS, else prints and returns 1.
 */
int cli_finish(void);

static inline void cli_cleanup_store(struct store **store)
{
	if (*store)
		store_close(*store);
}
#define cleanup_store __attribute__((cleanup(cli_cleanup_store)))

/* An operand that is a process's number. */
int cli_parse_pid(const char *text, pid_t *ret, struct err *err);

#endif
