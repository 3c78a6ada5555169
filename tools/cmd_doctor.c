#include "tools/commands.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "tools/cli.h"
#include "tools/doctor.h"
#include "tools/report.h"

static const struct cli_option options[] = {
	CLI_OPTION_JSON, CLI_OPTION_STORE, CLI_OPTION_ANY_FS, CLI_OPTION_HELP, CLI_OPTION_END,
};

static const struct cli_spec spec = {
	.name = "doctor",
	.operands = "[PID]",
	.about = "Try what pawl needs of this machine, and say what works (ok), what is missing, "
		 "and where\n"
		 "a fallback will serve. Exit status 1 when something is missing without which no "
		 "job can\n"
		 "be run.\n"
		 "\n"
		 "With PID: list every object that this process and its descendants hold, and whether "
		 "it\n"
		 "would be saved and restored, by process and descriptor. They stand still for a "
		 "moment;\n"
		 "nothing is stored. Exit status 1 when something would be refused.",
	.options = options,
	.most = 1,
};

static const char *const grades[] = {
	[DOCTOR_OK] = "ok",
	[DOCTOR_FALLBACK] = "fallback",
	[DOCTOR_ABSENT] = "missing",
	[DOCTOR_MISSING] = "missing",
};

static json_t *report_json(const struct doctor_report *report)
{
	json_t *list = json_array();

	for (size_t i = 0; i < report->n; i++) {
		const struct doctor_line *line = &report->lines[i];

		json_array_append_new(list, json_pack("{sssssO}", "what", line->what, "state",
						      grades[line->grade], "why", json_null()));
		json_object_set_new(json_array_get(list, i), "why", report_text(line->why));
	}
	return list;
}

static void print_text(const struct doctor_report *report, bool missing)
{
	for (size_t i = 0; i < report->n; i++)
		printf("%-16s %-9s %s\n", report->lines[i].what, grades[report->lines[i].grade],
		       report->lines[i].why);
	printf(missing ? "\njobs cannot be run here until what is missing is there\n"
		       : "\njobs can be run, saved and recovered here\n");
}

static int examine(const struct cli_args *args)
{
	struct err err = {0};
	bool refused = false;
	int status;
	pid_t pid;

	if (cli_parse_pid(args->operands[0], &pid, &err) < 0 ||
	    doctor_process(pid, args->json, &refused, &err) < 0)
		return cli_fail(&err);
	status = cli_finish();
	return refused ? EXIT_FAILURE : status;
}

int cmd_doctor(int argc, char **argv)
{
	struct doctor_report report = {0};
	char dir[PATH_MAX];
	struct err err = {0};
	struct cli_args args;
	bool missing = false;
	int status;

	if (!cli_begin(&spec, argc, argv, NULL, &args, &status))
		return status;
	if (args.n_operands > 0)
		return examine(&args);
	if (cli_store_dir(&args, dir, sizeof(dir), &err) < 0)
		return cli_fail(&err);
	doctor_capsule(&report);
	doctor_kernel(&report);
	doctor_store(&report, dir);
	for (size_t i = 0; i < report.n; i++)
		missing |= report.lines[i].grade == DOCTOR_MISSING;
	if (args.json)
		report_print(report_json(&report));
	else
		print_text(&report, missing);
	status = cli_finish();
	return missing ? EXIT_FAILURE : status;
}
