/*
 * pawl: keeps a long-running job from slipping back.
 */
#include <malloc.h>
#include <stdio.h>
#include <string.h>

#include "tools/cli.h"
#include "tools/commands.h"

struct command {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *summary;
};

static const struct command commands[] = {
	{"run", cmd_run, "launch a job and save it periodically, or resume it"},
	{"attach", cmd_attach, "save a process tree that runs already periodically"},
	{"recover", cmd_recover, "rebuild a job from a snapshot and go on"},
	{"snapshot", cmd_snapshot, "save a running job now"},
	{"stop", cmd_stop, "save a running job, then end it"},
	{"push", cmd_push, "copy a snapshot to a destination"},
	{"pull", cmd_pull, "fetch a snapshot from a destination"},
	{"list", cmd_list, "list jobs, or the snapshots of one"},
	{"show", cmd_show, "describe a snapshot"},
	{"diff", cmd_diff, "tell what changed between two snapshots"},
	{"log", cmd_log, "print what a job has written"},
	{"send", cmd_send, "write a snapshot as a stream, for another machine"},
	{"migrate", cmd_migrate, "move a running job to another machine"},
	{"receive", cmd_receive, "read a snapshot from a stream"},
	{"verify", cmd_verify, "check every stored byte"},
	{"export", cmd_export, "write a snapshot as a core file for a debugger"},
	{"rm", cmd_rm, "drop a job or a snapshot"},
	{"gc", cmd_gc, "free the space of what was dropped"},
	{"doctor", cmd_doctor, "say what this machine can do"},
	{NULL, NULL, NULL},
};

static void print_usage(FILE *to)
{
	fprintf(to, "usage: pawl [--store DIR] COMMAND [OPTION]... [ARGUMENT]...\n"
		    "\n"
		    "Saves the whole state of a long-running job while it runs; after a crash, a "
		    "reboot or\n"
		    "a lost node it goes on from the latest good snapshot.\n"
		    "\n"
		    "  pawl run -n sim -- ./sim input    launch, or resume if there is something "
		    "to resume\n"
		    "\n"
		    "commands:\n");
	for (const struct command *c = commands; c->name; c++)
		fprintf(to, "  %-10s %s\n", c->name, c->summary);
	fprintf(to, "\n'pawl COMMAND --help' tells more, as does pawl(1).\n");
}

static const struct command *find_command(const char *name)
{
	for (const struct command *c = commands; c->name; c++)
		if (strcmp(c->name, name) == 0)
			return c;
	return NULL;
}

static int unknown_command(const char *name)
{
	struct err err = {0};

	err_set(&err, ERR_INVALID, "%s '%s' is unknown (see 'pawl --help')",
		name[0] == '-' ? "option" : "command", name);
	return cli_fail(&err);
}

/* pawl help [COMMAND] */
static int help(const char *name)
{
	char *argv[] = {(char *)name, (char *)"--help", NULL};
	const struct command *command;

	if (!name) {
		print_usage(stdout);
		return cli_finish();
	}
	command = find_command(name);
	return command ? command->run(2, argv) : unknown_command(name);
}

/* LMDB copies each pack into memory of its own until it is written: mapped and unmapped for every one, as malloc does
 * from 128 KiB on, all of it would be fresh memory (measured: a third of what a first snapshot costs). One arena: each
 * that a thread had to itself would keep as much (64 MiB of packs more). */
static void keep_buffers(void)
{
	mallopt(M_ARENA_MAX, 1);
	mallopt(M_MMAP_THRESHOLD, 8 << 20);
	mallopt(M_TRIM_THRESHOLD, 128 << 20);
}

/* How many words of `pawl --store DIR COMMAND` stand before the command that are options of it. */
static int leading_options(int argc, char **argv)
{
	int n = 0;

	while (1 + n < argc) {
		const char *word = argv[1 + n];

		if (strcmp(word, "--store") == 0)
			n += 2;
		else if (strncmp(word, "--store=", 8) == 0 || strcmp(word, "--json") == 0)
			n++;
		else
			break;
	}
	return n;
}

/* Options that most commands have may stand before the command, as git's and systemctl's may: they are moved
 * behind it. False: there is no command. */
static bool command_first(int argc, char **argv)
{
	int n = leading_options(argc, argv);
	char *command;

	if (1 + n >= argc)
		return false;
	command = argv[1 + n];
	memmove(&argv[2], &argv[1], (size_t)n * sizeof(argv[0]));
	argv[1] = command;
	return true;
}

int main(int argc, char **argv)
{
	const struct command *command;

	keep_buffers();
	if (!command_first(argc, argv)) {
		print_usage(stderr);
		return EXIT_MISUSE;
	}
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)
		return help(NULL);
	if (strcmp(argv[1], "help") == 0)
		return help(argv[2]);
	if (strcmp(argv[1], "--version") == 0) {
		printf("pawl %s\n", PAWL_VERSION);
		return cli_finish();
	}
	command = find_command(argv[1]);
	return command ? command->run(argc - 1, argv + 1) : unknown_command(argv[1]);
}
