#include "tools/cli.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct getopt_tables {
	char letters[2 * CLI_MAX_OPTIONS + 3];
	struct option names[CLI_MAX_OPTIONS + 1];
};

static void build_tables(const struct cli_spec *spec, struct getopt_tables *t)
{
	char *letter = t->letters;
	size_t n = 0;

	if (spec->in_order)
		*letter++ = '+';
	*letter++ = ':';
	for (const struct cli_option *o = spec->options; o->name && n < CLI_MAX_OPTIONS; o++) {
		t->names[n++] = (struct option){o->name, o->value ? required_argument : no_argument,
						NULL, o->key};
		if (o->key >= CLI_HELP)
			continue;
		*letter++ = (char)o->key;
		if (o->value)
			*letter++ = ':';
	}
	t->names[n] = (struct option){0};
	*letter = '\0';
}

static int take_common(struct cli_args *args, int key, const char *value)
{
	switch (key) {
	case CLI_HELP:
		args->help = true;
		return 1;
	case CLI_JSON:
		args->json = true;
		return 1;
	case CLI_ANY_FS:
		args->any_fs = true;
		return 1;
	case CLI_STORE:
		args->store = value;
		return 1;
	default:
		return 0;
	}
}

/* What getopt_long disliked: it leaves the long option in argv[optind - 1], a letter in optopt. */
static int bad_option(const struct cli_spec *spec, char **argv, int code, struct err *err)
{
	const char *why = "is unknown";
	const char *text = argv[optind - 1];
	char letter[3] = {'-', (char)optopt, '\0'};

	if (code == ':')
		why = "needs a value";
	else if (optopt >= CLI_HELP)
		why = "takes no value";
	else if (optopt == 0 && strncmp(text, "--", 2) == 0)
		why = "is unknown or ambiguous";
	if (optopt > 0 && optopt < CLI_HELP && strncmp(text, "--", 2) != 0)
		text = letter;
	return err_set(err, ERR_INVALID, "%s: option '%s' %s (see 'pawl %s --help')", spec->name,
		       text, why, spec->name);
}

static int check_operands(const struct cli_spec *spec, const struct cli_args *args, struct err *err)
{
	if (args->n_operands < spec->least)
		return err_set(err, ERR_INVALID, "%s: %s is missing (see 'pawl %s --help')",
			       spec->name, spec->operands, spec->name);
	if (spec->most >= 0 && args->n_operands > spec->most)
		return err_set(err, ERR_INVALID,
			       "%s: unexpected argument '%s' (see 'pawl %s --help')", spec->name,
			       args->operands[spec->most], spec->name);
	return 0;
}

int cli_parse(const struct cli_spec *spec, int argc, char **argv, void *ctx, struct cli_args *ret,
	      struct err *err)
{
	struct getopt_tables tables;
	struct cli_args args = {0};
	int key;

	build_tables(spec, &tables);
	opterr = 0;
	optind = 0; /* glibc: start afresh, and forget an earlier permutation */
	while ((key = getopt_long(argc, argv, tables.letters, tables.names, NULL)) != -1) {
		if (key == '?' || key == ':')
			return bad_option(spec, argv, key, err);
		if (take_common(&args, key, optarg))
			continue;
		if (spec->set(ctx, key, optarg, err) < 0)
			return err_wrap(err, "%s", spec->name);
	}
	args.operands = argv + optind;
	args.n_operands = argc - optind;
	if (!args.help && check_operands(spec, &args, err) < 0)
		return -1;
	*ret = args;
	return 0;
}

static void print_option(const struct cli_option *o)
{
	const char *line = o->help;
	char left[64];
	int n = 0;

	if (o->key < CLI_HELP)
		n = snprintf(left, sizeof(left), "-%c, ", o->key);
	else
		n = snprintf(left, sizeof(left), "    ");
	snprintf(left + n, sizeof(left) - (size_t)n, "--%s%s%s", o->name, o->value ? " " : "",
		 o->value ? o->value : "");
	printf("  %-28s", left);
	if (strlen(left) > 27)
		printf("\n%30s", "");
	for (;;) {
		size_t len = strcspn(line, "\n");

		printf(" %.*s\n", (int)len, line);
		if (line[len] == '\0')
			break;
		line += len + 1;
		printf("%30s", "");
	}
}

void cli_print_help(const struct cli_spec *spec)
{
	printf("usage: pawl %s [OPTION]...%s%s\n\n%s\n\n", spec->name, *spec->operands ? " " : "",
	       spec->operands, spec->about);
	for (const struct cli_option *o = spec->options; o->name; o++)
		print_option(o);
}

bool cli_begin(const struct cli_spec *spec, int argc, char **argv, void *ctx, struct cli_args *ret,
	       int *ret_exit)
{
	struct err err = {0};

	if (cli_parse(spec, argc, argv, ctx, ret, &err) < 0) {
		*ret_exit = cli_fail(&err);
		return false;
	}
	if (ret->help) {
		cli_print_help(spec);
		*ret_exit = cli_finish();
		return false;
	}
	return true;
}

static const char *home_dir(void)
{
	const char *home = getenv("HOME");
	const struct passwd *user;

	if (home && home[0] == '/')
		return home;
	user = getpwuid(getuid());
	return user ? user->pw_dir : NULL;
}

int cli_store_dir(const struct cli_args *args, char *buf, size_t len, struct err *err)
{
	const char *dir = args->store ? args->store : getenv("PAWL_STORE");
	const char *state = getenv("XDG_STATE_HOME");
	const char *home;
	int n;

	if (args->store && !*args->store)
		return err_set(err, ERR_INVALID, "--store: the directory's name is empty");
	if (dir && *dir) {
		n = snprintf(buf, len, "%s", dir);
	} else if (state && state[0] == '/') {
		n = snprintf(buf, len, "%s/pawl", state);
	} else {
		if (!(home = home_dir()))
			return err_set(
				err, ERR_NOT_FOUND,
				"no store: HOME is not set (give --store DIR or PAWL_STORE)");
		n = snprintf(buf, len, "%s/.local/state/pawl", home);
	}
	if (n < 0 || (size_t)n >= len)
		return err_set(err, ERR_INVALID, "the store's path is too long");
	return 0;
}

int cli_open_store(const struct cli_args *args, int flags, struct store **ret, struct err *err)
{
	char dir[PATH_MAX];
	struct stat st;

	if (cli_store_dir(args, dir, sizeof(dir), err) < 0)
		return -1;
	if (stat(dir, &st) < 0 && errno == ENOENT)
		return err_set(
			err, ERR_NOT_FOUND,
			"%s: there is no store here yet ('pawl run' makes one; --store DIR or "
			"PAWL_STORE names another)",
			dir);
	if (store_open(ret, dir, flags | (args->any_fs ? STORE_ANY_FS : 0), err) == 0)
		return 0;
	if (err->kind == ERR_CORRUPT) {
		const struct err why = *err;

		err_set(err, ERR_CORRUPT, "%s ('pawl gc --salvage' saves what can still be read)", why.msg);
	}
	return -1;
}

int cli_get_job(struct store *store, const char *name, struct job_info *ret, struct err *err)
{
	if (store_job_get(store, name, ret, err) == 0)
		return 0;
	if (err->kind != ERR_NOT_FOUND)
		return -1;
	return err_set(err, ERR_NOT_FOUND,
		       "there is no job '%s' in %.200s ('pawl list' shows its jobs)", name,
		       store_dir(store));
}

/* One line whatever a name in it holds; and nothing in it can steer the terminal. */
static void print_line(const char *text)
{
	fputs("pawl: ", stderr);
	for (; *text; text++) {
		if ((unsigned char)*text < ' ' || *text == 0x7f)
			fprintf(stderr, "\\x%02x", (unsigned char)*text);
		else
			fputc(*text, stderr);
	}
	fputc('\n', stderr);
}

int cli_fail(const struct err *err)
{
	print_line(err->msg);
	return err->kind == ERR_INVALID ? EXIT_MISUSE : EXIT_FAILURE;
}

int cli_finish(void)
{
	if (fflush(stdout) == 0 && !ferror(stdout))
		return EXIT_SUCCESS;
	fprintf(stderr, "pawl: cannot write to standard output: %s\n", strerror(errno));
	return EXIT_FAILURE;
}

int cli_parse_pid(const char *text, pid_t *ret, struct err *err)
{
	size_t digits = strspn(text, "0123456789");

	if (digits == 0 || digits > 9 || text[digits] != '\0' || atoi(text) <= 0)
		return err_set(err, ERR_INVALID, "'%s' is not the number of a process", text);
	*ret = atoi(text);
	return 0;
}
