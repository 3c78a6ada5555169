#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/base/units.h"
#include "tools/launch_options.h"
#include "unit.h"

#define MAX_ARGS 32

struct parsed {
	struct launch_options options;
	struct cli_args args;
	struct err err;
	char line[256];
	char *argv[MAX_ARGS + 1];
};

static struct launch_options latest; /* of parse; what it owns goes with the next */

/* Parses a line split at blanks. */
static int parse(struct parsed *p, const struct cli_spec *spec, const char *line)
{
	int argc = 0, result;

	launch_options_clear(&latest);
	memset(p, 0, sizeof(*p));
	snprintf(p->line, sizeof(p->line), "%s", line);
	for (char *word = strtok(p->line, " "); word && argc < MAX_ARGS; word = strtok(NULL, " "))
		p->argv[argc++] = word;
	launch_options_init(&p->options);
	result = cli_parse(spec, argc, p->argv, &p->options, &p->args, &p->err);
	latest = p->options;
	return result;
}

static void test_defaults(void **state)
{
	struct parsed p;
	const struct watchdog_config *c = &p.options.config;

	assert_int_equal(parse(&p, &run_spec, "run true"), 0);
	assert_null(c->name);
	assert_int_equal(c->interval_ns, 300 * NSEC_PER_SEC);
	assert_int_equal(c->mode, LAUNCH_RESUME_OR_START);
	assert_int_equal(c->stop_exit_code, 85);
	assert_int_equal(c->codec, CODEC_LZ4);
	assert_int_equal(c->tracker, TRACKER_AUTO);
	assert_int_equal(c->retries, 0);
	assert_int_equal(c->retention.keep, 0);
	assert_int_equal(c->n_rules, 0);
	assert_false(c->unsupported_fails || c->quiet || p.options.detach);
	assert_int_equal(p.args.n_operands, 1);
}

/* What recover is told by the job's record, and then by its user. */
static void test_kept_options(void **state)
{
	char *unknown[] = {"--interval=90s", "--files=leave:*.log", "--no-such=1", "--interval", "--quiet", NULL};
	struct parsed p;
	struct launch_options later;
	const struct watchdog_config *c = &later.config;

	assert_int_equal(parse(&p, &run_spec, "run -n sim -q --fresh -i 90s --keep 3 --files fail:*.o x"), 0);
	assert_int_equal(p.options.n_kept, 3);
	assert_string_equal(p.options.kept[0], "--interval=90s");
	assert_string_equal(p.options.kept[1], "--keep=3");
	assert_string_equal(p.options.kept[2], "--files=fail:*.o");
	assert_null(p.options.kept[3]);
	launch_options_init(&later);
	launch_options_recall(&later, p.options.kept);
	assert_int_equal(c->interval_ns, 90 * NSEC_PER_SEC);
	assert_int_equal(c->retention.keep, 3);
	assert_int_equal(c->n_rules, 1);
	assert_string_equal(c->rules[0].glob, "*.o");
	launch_options_clear(&later);
	launch_options_init(&later);
	launch_options_recall(&later, unknown); /* of another version: what is not known is left out */
	assert_int_equal(c->interval_ns, 90 * NSEC_PER_SEC);
	assert_int_equal(c->n_rules, 1);
	assert_false(c->quiet);
	launch_options_clear(&later);
	launch_options_init(&later);
	launch_options_recall(&later, NULL); /* of a version that kept none */
	assert_int_equal(c->interval_ns, 300 * NSEC_PER_SEC);
	launch_options_clear(&later);
}

static void test_every_option(void **state)
{
	struct parsed p;
	const struct watchdog_config *c = &p.options.config;

	assert_int_equal(parse(&p, &run_spec,
			       "run -n sim -i 90s -d -q -v --keep 3 --keep-hourly=4 --keep-daily 5 "
			       "--fresh --retries 2 x"),
			 0);
	assert_string_equal(c->name, "sim");
	assert_int_equal(c->interval_ns, 90 * NSEC_PER_SEC);
	assert_true(p.options.detach && p.options.verbose && c->quiet);
	assert_int_equal(c->retention.keep, 3);
	assert_int_equal(c->retention.keep_hourly, 4);
	assert_int_equal(c->retention.keep_daily, 5);
	assert_int_equal(c->mode, LAUNCH_FRESH);
	assert_int_equal(c->retries, 2);
	assert_int_equal(parse(&p, &run_spec,
			       "run --hang-timeout 2h --stop-exit-code 9 --compress zstd "
			       "--tracker soft-dirty --max-file-size 4G --on-unsupported fail "
			       "--connections reset x"),
			 0);
	assert_int_equal(c->hang_timeout_ns, 7200 * NSEC_PER_SEC);
	assert_int_equal(c->stop_exit_code, 9);
	assert_int_equal(c->codec, CODEC_ZSTD);
	assert_int_equal(c->tracker, TRACKER_SOFT_DIRTY);
	assert_int_equal(c->file_size_limit, 4ull << 30);
	assert_true(c->unsupported_fails);
	assert_int_equal(c->connections, CONNECTIONS_RESET);
	assert_int_equal(parse(&p, &run_spec,
			       "run --before-snapshot b --after-snapshot a --store /s --any-fs x"),
			 0);
	assert_string_equal(c->before_snapshot, "b");
	assert_string_equal(c->after_snapshot, "a");
	assert_string_equal(p.args.store, "/s");
	assert_true(p.args.any_fs);
}

static void test_the_commands_own_options_are_left_alone(void **state)
{
	static const char *const lines[] = {
		"run -n sim ./sim -i 5 --help -- --store x",
		"run -n sim -- ./sim -i 5 --help -- --store x",
	};

	for (size_t i = 0; i < 2; i++) {
		struct parsed p;

		assert_int_equal(parse(&p, &run_spec, lines[i]), 0);
		assert_false(p.args.help);
		assert_null(p.args.store);
		assert_int_equal(p.args.n_operands, 7);
		assert_string_equal(p.args.operands[0], "./sim");
		assert_string_equal(p.args.operands[1], "-i");
		assert_string_equal(p.args.operands[4], "--");
		assert_null(p.args.operands[7]);
		assert_int_equal(p.options.config.interval_ns, 300 * NSEC_PER_SEC);
	}
}

static void test_a_command_that_looks_like_an_option(void **state)
{
	struct parsed p;

	assert_int_equal(parse(&p, &run_spec, "run -- --odd"), 0);
	assert_string_equal(p.args.operands[0], "--odd");
}

static void test_recover_takes_options_anywhere(void **state)
{
	struct parsed p;

	assert_int_equal(parse(&p, &recover_spec, "recover sim@3 --stopped -i 1h"), 0);
	assert_true(p.options.config.recover_stopped);
	assert_int_equal(p.options.config.interval_ns, 3600 * NSEC_PER_SEC);
	assert_int_equal(p.args.n_operands, 1);
	assert_string_equal(p.args.operands[0], "sim@3");
	assert_int_equal(parse(&p, &recover_spec, "recover --dry-run sim"), 0);
	assert_true(p.options.config.dry_run);
}

static void test_file_rules_keep_their_order(void **state)
{
	struct parsed p;
	const struct watchdog_config *c = &p.options.config;

	assert_int_equal(parse(&p, &run_spec,
			       "run --files leave --files save:/data/*:x --files fail:*.log "
			       "--files truncate x"),
			 0);
	assert_int_equal(c->n_rules, 4);
	assert_int_equal(c->rules[0].policy, FILES_LEAVE);
	assert_null(c->rules[0].glob);
	assert_int_equal(c->rules[1].policy, FILES_SAVE);
	assert_string_equal(c->rules[1].glob, "/data/*:x");
	assert_int_equal(c->rules[2].policy, FILES_FAIL);
	assert_int_equal(c->rules[3].policy, FILES_TRUNCATE);
}

static void test_no_periodic_snapshots(void **state)
{
	struct parsed p;

	assert_int_equal(parse(&p, &run_spec, "run -i never x"), 0);
	assert_int_equal(p.options.config.interval_ns, 0);
}

static void test_help_needs_no_operand(void **state)
{
	struct parsed p;

	assert_int_equal(parse(&p, &run_spec, "run --help"), 0);
	assert_true(p.args.help);
}

static void test_misuse_is_named(void **state)
{
	static const struct {
		const char *line, *names;
	} cases[] = {
		{"run", "CMD"},
		{"run --", "CMD"},
		{"run -n", "-n"},
		{"run --name", "--name"},
		{"run --nonsense x", "--nonsense"},
		{"run -X x", "-X"},
		{"run -qX x", "-X"},
		{"run --fresh=1 x", "--fresh=1"},
		{"run --keep- 3 x", "--keep-"},
		{"run -i 0 x", "'0'"},
		{"run -i -5 x", "'-5'"},
		{"run -i 10x x", "'10x'"},
		{"run --interval=10x x", "--interval"},
		{"run -n a/b x", "--name"},
		{"run -n .. x", "--name"},
		{"run --keep -1 x", "'-1'"},
		{"run --keep 3.5 x", "'3.5'"},
		{"run --keep= x", "whole number"},
		{"run --keep 9999999999 x", "9999999999"},
		{"run --keep 2000000 x", "2000000"},
		{"run --stop-exit-code 256 x", "256"},
		{"run --compress gzip x", "'gzip' is not lz4, zstd or none"},
		{"run --tracker Auto x", "'Auto'"},
		{"run --connections keep x", "'keep' is not refuse or reset"},
		{"run --on-unsupported ignore x", "'ignore' is not warn or fail"},
		{"run --files keep x", "'keep'"},
		{"run --files save: x", "'save:'"},
		{"run --files :x x", "':x'"},
		{"run --files savesavesavesavesave:x x", "savesave"},
		{"run --max-file-size 10Q x", "'10Q'"},
		{"run --hang-timeout x x", "--hang-timeout"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct parsed p;

		assert_fails(parse(&p, &run_spec, cases[i].line), ERR_INVALID, &p.err);
		if (!strstr(p.err.msg, cases[i].names))
			fail_msg("'%s' says '%s', not '%s'", cases[i].line, p.err.msg,
				 cases[i].names);
		assert_ptr_equal(strstr(p.err.msg, "run: "), p.err.msg);
		}
}

static void test_recover_wants_one_job(void **state)
{
	struct parsed p;

	assert_fails(parse(&p, &recover_spec, "recover"), ERR_INVALID, &p.err);
	assert_fails(parse(&p, &recover_spec, "recover a b"), ERR_INVALID, &p.err);
	assert_non_null(strstr(p.err.msg, "'b'"));
	assert_fails(parse(&p, &recover_spec, "recover --fresh a"), ERR_INVALID, &p.err);
}

static void test_store_choice(void **state)
{
	struct cli_args args = {0};
	struct err err = {0};
	char dir[64];

	unsetenv("PAWL_STORE");
	unsetenv("XDG_STATE_HOME");
	setenv("HOME", "/home/u", 1);
	assert_int_equal(cli_store_dir(&args, dir, sizeof(dir), &err), 0);
	assert_string_equal(dir, "/home/u/.local/state/pawl");
	setenv("XDG_STATE_HOME", "relative", 1); /* the specification: ignore it then */
	assert_int_equal(cli_store_dir(&args, dir, sizeof(dir), &err), 0);
	assert_string_equal(dir, "/home/u/.local/state/pawl");
	setenv("XDG_STATE_HOME", "/state", 1);
	assert_int_equal(cli_store_dir(&args, dir, sizeof(dir), &err), 0);
	assert_string_equal(dir, "/state/pawl");
	setenv("PAWL_STORE", "", 1);
	assert_int_equal(cli_store_dir(&args, dir, sizeof(dir), &err), 0);
	assert_string_equal(dir, "/state/pawl");
	setenv("PAWL_STORE", "env", 1);
	assert_int_equal(cli_store_dir(&args, dir, sizeof(dir), &err), 0);
	assert_string_equal(dir, "env");
	args.store = "given";
	assert_int_equal(cli_store_dir(&args, dir, sizeof(dir), &err), 0);
	assert_string_equal(dir, "given");
	args.store = "";
	assert_fails(cli_store_dir(&args, dir, sizeof(dir), &err), ERR_INVALID, &err);
	args.store = "far too long for the room that there is";
	assert_fails(cli_store_dir(&args, dir, 16, &err), ERR_INVALID, &err);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_kept_options),
		cmocka_unit_test(test_every_option),
		cmocka_unit_test(test_the_commands_own_options_are_left_alone),
		cmocka_unit_test(test_a_command_that_looks_like_an_option),
		cmocka_unit_test(test_recover_takes_options_anywhere),
		cmocka_unit_test(test_file_rules_keep_their_order),
		cmocka_unit_test(test_no_periodic_snapshots),
		cmocka_unit_test(test_help_needs_no_operand),
		cmocka_unit_test(test_misuse_is_named),
		cmocka_unit_test(test_recover_wants_one_job),
		cmocka_unit_test(test_store_choice),
	};

	int failed = cmocka_run_group_tests(tests, NULL, NULL);

	launch_options_clear(&latest);
	return failed;
}
