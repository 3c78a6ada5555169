#include "tools/commands.h"

#include "tools/jobref.h"
#include "tools/launch_options.h"

int cmd_recover(int argc, char **argv)
{
	struct launch_options launch_options;
	struct jobref ref;
	struct cli_args args;
	struct err err = {0};
	int status;

	launch_options_init(&launch_options);
	if (!cli_begin(&recover_spec, argc, argv, &launch_options, &args, &status)) {
		launch_options_clear(&launch_options);
		return status;
	}
	if (jobref_parse(args.operands[0], &ref, &err) < 0) {
		status = cli_fail(&err);
	} else {
		launch_options.config.name = ref.job;
		launch_options.config.recover_seq = ref.seq;
		launch_options.config.mode = LAUNCH_RECOVER;
		status = launch(&launch_options, &args);
	}
	launch_options_clear(&launch_options);
	return status;
}
