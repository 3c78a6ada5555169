/* What users type: durations, sizes, job and snapshot names, the options of `run`. */
#include "fuzz.h"

#include "store/base/units.h"
#include "tools/jobref.h"
#include "tools/launch_options.h"

#define MAX_WORDS 32

static const char *const seeds[] = {
	"5m",
	"1.5s",
	"500ms",
	"4G",
	"512MiB",
	"sim@17",
	"a.b_c+d-2@18446744073709551615",
	"run -n sim -i 90s -d -q --keep 3 --keep-hourly=4 --fresh --retries 2 -- ./sim -i 5",
	"run --hang-timeout 2h --compress zstd --tracker soft-dirty --max-file-size 4G x",
	"run --files save:/data/* --files fail --on-unsupported fail --stop-exit-code 9 x",
};

size_t fuzz_seed(unsigned i, uint8_t *buf, size_t room)
{
	return fuzz_seed_text(seeds, sizeof(seeds) / sizeof(seeds[0]), i, buf, room);
}

static void parse_line(char *line)
{
	struct launch_options options;
	char *argv[MAX_WORDS + 1] = {0};
	struct cli_args args;
	struct err err = {0};
	int argc = 0;

	for (char *word = strtok(line, " "); word && argc < MAX_WORDS; word = strtok(NULL, " "))
		argv[argc++] = word;
	if (argc == 0)
		return;
	launch_options_init(&options);
	if (cli_parse(&run_spec, argc, argv, &options, &args, &err) == 0)
		promise(args.help || (args.n_operands > 0 && args.operands[0]));
	else
		promise(err.kind == ERR_INVALID);
	launch_options_clear(&options);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = fuzz_string(data, size);
	struct jobref ref;
	struct err err = {0};
	uint64_t value;

	if (parse_duration(text, &value, &err) == 0)
		promise(value > 0);
	if (parse_size(text, &value, &err) == 0)
		promise(value > 0);
	if (jobref_parse(text, &ref, &err) == 0)
		promise(ref.job[0] != '\0' && !strchr(ref.job, '/'));
	else
		promise(err.kind == ERR_INVALID);
	parse_line(text);
	free(text);
	return 0;
}
