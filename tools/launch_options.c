#include "tools/launch_options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checkpointer/yielding.h"
#include "store/base/cleanup.h"
#include "store/base/log.h"
#include "store/base/units.h"
#include "store/replica/destination.h"
#include "watchdog/savedir.h"

static const struct cli_option run_options[] = {
	{'n', "name", "NAME", "the job's name (default: made from CMD)"},
	{LAUNCH_FRESH_START, "fresh", NULL, "start over, even if there is something to resume"},
	{LAUNCH_ONCE, "once", NULL,
	 "if the job has finished, do not start it again: exit\nwith its status"},
	{LAUNCH_CPU_BASELINE, "cpu-baseline", "LEVEL",
	 "keep the C library and the common numerical ones to\nx86-64-v2, x86-64-v3 or x86-64-v4, so that "
	 "the job can\ngo on on any CPU of that level"},
	LAUNCH_OPTIONS,
	CLI_OPTION_END,
};

const struct cli_spec run_spec = {
	.name = "run",
	.operands = "[--] CMD [ARG]...",
	.about = "Launch CMD and save its whole state periodically. If the job NAME has a snapshot "
		 "and\n"
		 "has not finished, it is resumed from the latest good one instead of started.\n"
		 "\n"
		 "Exit status: the job's own; 128+N if signal N ended it; 85 if it was saved and "
		 "stopped\n"
		 "on request (SIGINT, SIGTERM, pawl stop); 125 if pawl failed; 126 or 127 if CMD "
		 "cannot\n"
		 "be run or found; 2 on misuse. SIGUSR1 takes a snapshot now.",
	.options = run_options,
	.least = 1,
	.most = -1,
	.in_order = true,
	.set = launch_options_set,
};

static const struct cli_option attach_options[] = {
	{'n', "name", "NAME", "the job's name (default: made from its command)"},
	{LAUNCH_FRESH_START, "fresh", NULL,
	 "forget what NAME could be resumed from"},
	LAUNCH_OPTIONS,
	CLI_OPTION_END,
};

const struct cli_spec attach_spec = {
	.name = "attach",
	.operands = "PID",
	.about = "Watch process PID, which runs already, with all its descendants, and save its "
		 "whole state\n"
		 "periodically. 'pawl recover' then rebuilds it in a capsule, under its old pids. Its "
		 "standard\n"
		 "streams stay its own.\n"
		 "\n"
		 "SIGINT, SIGTERM and pawl stop save the job and end it (85); a second SIGINT or "
		 "SIGTERM, or\n"
		 "SIGQUIT, lets it go: it runs on without pawl, as it does when pawl dies. SIGUSR1 "
		 "takes a\n"
		 "snapshot now. Exit status: the job's own where the kernel tells it (else 125), and "
		 "as of\n"
		 "'pawl run'; 0 when SIGQUIT let it go.",
	.options = attach_options,
	.least = 1,
	.most = 1,
	.set = launch_options_set,
};

static const struct cli_option recover_options[] = {
	{LAUNCH_STOPPED, "stopped", NULL,
	 "leave the job stopped for a debugger and print its\npid"},
	{LAUNCH_LAZY, "lazy", NULL,
	 "run the job at once, its memory follows: what it\ntouches first (root; 'pawl doctor' tells)"},
	{LAUNCH_FROM, "from", "DEST",
	 "fetch the snapshot from DEST, and go on copying to\nit: see --replicate"},
	{LAUNCH_DRY_RUN, "dry-run", NULL, "print what would be done and create nothing"},
	LAUNCH_OPTIONS,
	CLI_OPTION_END,
};

const struct cli_spec recover_spec = {
	.name = "recover",
	.operands = "JOB[@N]",
	.about =
		"Rebuild JOB from its latest good snapshot, or from snapshot N, and watch on. The "
		"files\n"
		"the job writes and its log are rolled back to the same instant. Options not given "
		"are\n"
		"those that the job was launched with.\n"
		"\n"
		"Exit status as of 'pawl run'.",
	.options = recover_options,
	.least = 1,
	.most = 1,
	.set = launch_options_set,
};

struct word {
	const char *text;
	int value;
};

void launch_options_init(struct launch_options *options)
{
	*options = (struct launch_options){
		.config =
			{
				.interval_ns = 300 * NSEC_PER_SEC,
				.stop_exit_code = PAWL_EXIT_STOPPED,
				.codec = CODEC_LZ4,
				.tracker = TRACKER_AUTO,
			},
	};
}

void launch_options_clear(struct launch_options *options)
{
	free(options->config.rules);
	options->config.rules = NULL;
	options->config.n_rules = 0;
	for (size_t i = 0; i < options->config.n_save_dirs; i++)
		free(options->config.save_dirs[i]);
	free(options->config.save_dirs);
	options->config.save_dirs = NULL;
	options->config.n_save_dirs = 0;
	while (options->config.n_replicas > 0)
		free(options->config.replicas[--options->config.n_replicas]);
	free(options->config.replicas);
	options->config.replicas = NULL;
	free(options->metrics);
	options->config.metrics = options->metrics = NULL;
	while (options->n_kept > 0)
		free(options->kept[--options->n_kept]);
	free(options->kept);
	options->kept = NULL;
}

static int parse_word(const char *option, const char *text, const struct word *words, int *ret,
		      struct err *err)
{
	char list[128] = "";

	for (const struct word *w = words; w->text; w++) {
		if (strcmp(text, w->text) == 0) {
			*ret = w->value;
			return 0;
		}
		if (*list)
			strcat(list, w[1].text ? ", " : " or ");
		strcat(list, w->text);
	}
	return err_set(err, ERR_INVALID, "--%s: '%s' is not %s", option, text, list);
}

static int parse_count(const char *option, const char *text, unsigned most, unsigned *ret,
		       struct err *err)
{
	size_t digits = strspn(text, "0123456789");
	unsigned long value;

	if (digits == 0 || digits > 9 || text[digits] != '\0')
		return err_set(err, ERR_INVALID, "--%s: '%s' is not a whole number", option, text);
	value = strtoul(text, NULL, 10);
	if (value > most)
		return err_set(err, ERR_INVALID, "--%s: %s is more than %u", option, text, most);
	*ret = (unsigned)value;
	return 0;
}

static int parse_files_rule(struct watchdog_config *config, const char *text, struct err *err)
{
	static const struct word words[] = {{"save", FILES_SAVE},
					    {"truncate", FILES_TRUNCATE},
					    {"leave", FILES_LEAVE},
					    {"fail", FILES_FAIL},
					    {NULL, 0}};
	const char *colon = strchrnul(text, ':');
	char policy[16] = "";
	struct file_rule *rules;
	int value;

	if ((size_t)(colon - text) < sizeof(policy))
		memcpy(policy, text, (size_t)(colon - text));
	if (parse_word("files", *policy ? policy : text, words, &value, err) < 0)
		return -1;
	if (*colon && !colon[1])
		return err_set(err, ERR_INVALID, "--files: '%s' has no pattern after ':'", text);
	rules = reallocarray(config->rules, config->n_rules + 1, sizeof(*rules));
	if (!rules)
		return err_sys(err, "--files");
	config->rules = rules;
	rules[config->n_rules++] = (struct file_rule){
		.policy = (enum file_policy)value,
		.glob = *colon ? (char *)colon + 1 : NULL,
	};
	return 0;
}

static int add_save_dir(struct watchdog_config *config, const char *text, struct err *err)
{
	char **more = reallocarray(config->save_dirs, config->n_save_dirs + 1, sizeof(*more));

	if (!more)
		return err_sys(err, "--save-dir");
	config->save_dirs = more;
	if (savedir_resolve(text, &more[config->n_save_dirs], err) < 0)
		return err_wrap(err, "--save-dir");
	config->n_save_dirs++;
	return 0;
}

static int add_replica(struct watchdog_config *config, const char *text, struct err *err)
{
	char **more;

	if (destination_check(text, err) < 0)
		return -1;
	for (size_t i = 0; i < config->n_replicas; i++)
		if (strcmp(config->replicas[i], text) == 0)
			return 0;
	more = reallocarray(config->replicas, config->n_replicas + 1, sizeof(*more));
	if (!more)
		return err_sys(err, "--replicate");
	config->replicas = more;
	if (!(more[config->n_replicas] = strdup(text)))
		return err_sys(err, "--replicate");
	config->n_replicas++;
	return 0;
}

static int set_replica(struct watchdog_config *config, int key, const char *value, struct err *err)
{
	if (key == LAUNCH_FROM)
		config->from = value;
	return add_replica(config, value, err);
}

static int parse_interval(struct watchdog_config *config, const char *text, struct err *err)
{
	config->interval_auto = strcmp(text, "auto") == 0;
	if (config->interval_auto)
		return 0;
	if (strcmp(text, "never") == 0) {
		config->interval_ns = 0;
		return 0;
	}
	if (parse_duration(text, &config->interval_ns, err) < 0)
		return err_wrap(err, "--interval");
	return 0;
}

static int set_words(struct watchdog_config *config, int key, const char *value, struct err *err)
{
	static const struct word codecs[] = {
		{"lz4", CODEC_LZ4}, {"zstd", CODEC_ZSTD}, {"none", CODEC_NONE}, {NULL, 0}};
	static const struct word trackers[] = {{"auto", TRACKER_AUTO},
					       {"pagemap", TRACKER_PAGEMAP},
					       {"soft-dirty", TRACKER_SOFT_DIRTY},
					       {"none", TRACKER_NONE},
					       {NULL, 0}};
	static const struct word connections[] = {
		{"refuse", CONNECTIONS_REFUSE}, {"reset", CONNECTIONS_RESET}, {NULL, 0}};
	static const struct word answers[] = {{"warn", false}, {"fail", true}, {NULL, 0}};
	static const struct word levels[] = {
		{"x86-64-v2", 2}, {"x86-64-v3", 3}, {"x86-64-v4", 4}, {NULL, 0}};
	static const struct word fenced[] = {{"stop", false}, {"warn", true}, {NULL, 0}};
	int word;

	switch (key) {
	case LAUNCH_CPU_BASELINE:
		if (parse_word("cpu-baseline", value, levels, &word, err) < 0)
			return -1;
		config->cpu_baseline = (unsigned)word;
		return 0;
	case LAUNCH_COMPRESS:
		if (parse_word("compress", value, codecs, &word, err) < 0)
			return -1;
		config->codec = (enum store_codec)word;
		return 0;
	case LAUNCH_TRACKER:
		if (parse_word("tracker", value, trackers, &word, err) < 0)
			return -1;
		config->tracker = (enum tracker_kind)word;
		return 0;
	case LAUNCH_CONNECTIONS:
		if (parse_word("connections", value, connections, &word, err) < 0)
			return -1;
		config->connections = (enum connection_policy)word;
		return 0;
	case LAUNCH_ON_FENCED:
		if (parse_word("on-fenced", value, fenced, &word, err) < 0)
			return -1;
		config->fenced_warns = word;
		return 0;
	default:
		if (parse_word("on-unsupported", value, answers, &word, err) < 0)
			return -1;
		config->unsupported_fails = word;
		return 0;
	}
}

static int set_numbers(struct watchdog_config *config, int key, const char *value, struct err *err)
{
	struct retention *r = &config->retention;
	unsigned code;

	switch (key) {
	case LAUNCH_KEEP:
		return parse_count("keep", value, 1000000, &r->keep, err);
	case LAUNCH_KEEP_HOURLY:
		return parse_count("keep-hourly", value, 1000000, &r->keep_hourly, err);
	case LAUNCH_KEEP_DAILY:
		return parse_count("keep-daily", value, 1000000, &r->keep_daily, err);
	case LAUNCH_RETRIES:
		return parse_count("retries", value, 1000000, &config->retries, err);
	default:
		if (parse_count("stop-exit-code", value, 255, &code, err) < 0)
			return -1;
		config->stop_exit_code = (int)code;
		return 0;
	}
}

/* Of --interval=auto; either bound may come first. */
static int set_auto_interval(struct watchdog_config *config, int key, const char *value,
			     struct err *err)
{
	uint64_t least, most;

	if (key == LAUNCH_MTBF)
		return parse_duration(value, &config->mtbf_ns, err) < 0 ? err_wrap(err, "--mtbf") : 0;
	if (key == LAUNCH_LEAST_INTERVAL && parse_duration(value, &config->least_interval_ns, err) < 0)
		return err_wrap(err, "--min-interval");
	if (key == LAUNCH_MOST_INTERVAL && parse_duration(value, &config->most_interval_ns, err) < 0)
		return err_wrap(err, "--max-interval");
	least = config->least_interval_ns;
	most = config->most_interval_ns;
	if (least && most && least > most)
		return err_set(err, ERR_INVALID, "--min-interval is more than --max-interval");
	return 0;
}

/* Whatever directory recover is called in. */
static int set_metrics(struct launch_options *options, const char *value, struct err *err)
{
	cleanup_free char *cwd = *value == '/' ? strdup("") : getcwd(NULL, 0);
	char *path;

	if (!*value || value[strlen(value) - 1] == '/')
		return err_set(err, ERR_INVALID, "--metrics: '%s' is not a file's name", value);
	if (!cwd || asprintf(&path, *value == '/' ? "%s%s" : "%s/%s", cwd, value) < 0)
		return err_sys(err, "--metrics");
	free(options->metrics);
	options->config.metrics = options->metrics = path;
	return 0;
}

static int parse_nice(struct watchdog_config *config, const char *text, struct err *err)
{
	unsigned nice;

	if (strcmp(text, "idle") == 0) {
		config->nice = YIELD_IDLE;
		return 0;
	}
	if (parse_count("nice", text, 19, &nice, err) < 0)
		return -1;
	config->nice = (int)nice;
	return 0;
}

/* What pawl may take of the machine. */
static int set_share(struct watchdog_config *config, int key, const char *value, struct err *err)
{
	switch (key) {
	case LAUNCH_NICE:
		return parse_nice(config, value, err);
	case LAUNCH_MEMORY:
		return parse_size(value, &config->memory_budget, err) < 0 ? err_wrap(err, "--memory") : 0;
	default:
		return parse_size(value, &config->rate, err) < 0 ? err_wrap(err, "--max-rate") : 0;
	}
}

static int set_quantities(struct watchdog_config *config, int key, const char *value,
			  struct err *err)
{
	switch (key) {
	case 'i':
		return parse_interval(config, value, err);
	case LAUNCH_HANG_TIMEOUT:
		if (parse_duration(value, &config->hang_timeout_ns, err) < 0)
			return err_wrap(err, "--hang-timeout");
		return 0;
	default:
		if (parse_size(value, &config->file_size_limit, err) < 0)
			return err_wrap(err, "--max-file-size");
		return 0;
	}
}

static int set_name(struct watchdog_config *config, const char *value, struct err *err)
{
	if (job_name_check(value, err) < 0)
		return err_wrap(err, "--name");
	config->name = value;
	return 0;
}

static int set_option(struct launch_options *options, int key, const char *value, struct err *err)
{
	struct watchdog_config *config = &options->config;

	switch (key) {
	case 'n':
		return set_name(config, value, err);
	case 'd':
		options->detach = true;
		return 0;
	case 'q':
		config->quiet = true;
		return 0;
	case 'v':
		options->verbose = true;
		return 0;
	case 'i':
	case LAUNCH_HANG_TIMEOUT:
	case LAUNCH_MAX_FILE_SIZE:
		return set_quantities(config, key, value, err);
	case LAUNCH_MTBF:
	case LAUNCH_LEAST_INTERVAL:
	case LAUNCH_MOST_INTERVAL:
		return set_auto_interval(config, key, value, err);
	case LAUNCH_MEMORY:
	case LAUNCH_NICE:
	case LAUNCH_MAX_RATE:
		return set_share(config, key, value, err);
	case LAUNCH_METRICS:
		return set_metrics(options, value, err);
	case LAUNCH_COMPRESS:
	case LAUNCH_TRACKER:
	case LAUNCH_CONNECTIONS:
	case LAUNCH_ON_UNSUPPORTED:
	case LAUNCH_CPU_BASELINE:
	case LAUNCH_ON_FENCED:
		return set_words(config, key, value, err);
	case LAUNCH_FILES:
		return parse_files_rule(config, value, err);
	case LAUNCH_SAVE_DIR:
		return add_save_dir(config, value, err);
	case LAUNCH_REPLICATE:
	case LAUNCH_FROM:
		return set_replica(config, key, value, err);
	case LAUNCH_BEFORE_SNAPSHOT:
		config->before_snapshot = value;
		return 0;
	case LAUNCH_AFTER_SNAPSHOT:
		config->after_snapshot = value;
		return 0;
	case LAUNCH_FRESH_START:
		config->mode = LAUNCH_FRESH;
		return 0;
	case LAUNCH_ONCE:
		config->once = true;
		return 0;
	case LAUNCH_STOPPED:
		config->recover_stopped = true;
		return 0;
	case LAUNCH_LAZY:
		config->lazy = true;
		return 0;
	case LAUNCH_DRY_RUN:
		config->dry_run = true;
		return 0;
	default:
		return set_numbers(config, key, value, err);
	}
}

/* ---- what is kept with the job ------------------------------------------------------------- */

/* How a job is watched; not how one command talks, or what it does this once. */
static bool is_kept(int key)
{
	switch (key) {
	case 'n':
	case 'd':
	case 'q':
	case 'v':
	case LAUNCH_FRESH_START:
	case LAUNCH_ONCE:
	case LAUNCH_CPU_BASELINE: /* the snapshots say what it was launched with */
	case LAUNCH_STOPPED:
	case LAUNCH_LAZY:
	case LAUNCH_DRY_RUN:
	case LAUNCH_FROM:
		return false;
	default:
		return true;
	}
}

static int keep(struct launch_options *options, const char *name, const char *value,
		struct err *err)
{
	char **more = reallocarray(options->kept, options->n_kept + 2, sizeof(*more));

	if (!more)
		return err_sys(err, "--%s", name);
	options->kept = more;
	if (asprintf(&more[options->n_kept], value ? "--%s=%s" : "--%s", name, value) < 0)
		return err_sys(err, "--%s", name);
	more[++options->n_kept] = NULL;
	return 0;
}

int launch_options_set(void *ctx, int key, const char *value, struct err *err)
{
	struct launch_options *options = ctx;

	if (set_option(options, key, value, err) < 0)
		return -1;
	if (key == LAUNCH_SAVE_DIR) /* whatever directory recover is called in */
		value = options->config.save_dirs[options->config.n_save_dirs - 1];
	if (key == LAUNCH_METRICS)
		value = options->metrics;
	for (const struct cli_option *o = run_options; o->name && is_kept(key); o++)
		if (o->key == key)
			return keep(options, o->name, value, err);
	return 0;
}

static int recall(struct launch_options *options, const char *text, struct err *err)
{
	const char *name = strncmp(text, "--", 2) == 0 ? text + 2 : text;
	const char *end = strchrnul(name, '=');

	for (const struct cli_option *o = run_options; o->name; o++)
		if (strlen(o->name) == (size_t)(end - name) &&
		    strncmp(o->name, name, (size_t)(end - name)) == 0 && is_kept(o->key) &&
		    !o->value == !*end)
			return launch_options_set(options, o->key, *end ? end + 1 : NULL, err);
	return err_set(err, ERR_INVALID, "'%s' is not known", text);
}

void launch_options_recall(struct launch_options *options, char *const *kept)
{
	struct err err;

	for (; kept && *kept; kept++)
		if (recall(options, *kept, &err) < 0)
			log_warn("an option the job was launched with is left out: %s", err.msg);
}
