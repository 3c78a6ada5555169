#include "tools/commands.h"

#include "tools/launch_options.h"

int cmd_run(int argc, char **argv)
{
	struct launch_options launch_options;
	struct cli_args args;
	int status;

	launch_options_init(&launch_options);
	if (cli_begin(&run_spec, argc, argv, &launch_options, &args, &status)) {
		launch_options.config.argv = args.operands;
		status = launch(&launch_options, &args);
	}
	launch_options_clear(&launch_options);
	return status;
}
