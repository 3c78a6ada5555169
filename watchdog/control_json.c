#include <string.h>

#include "watchdog/control.h"

struct number_field {
	const char *name;
	size_t offset;
};

#define FIELD(name)                                                                                \
	{                                                                                          \
#name, offsetof(struct snapshot_info, name)                                        \
	}

static const struct number_field number_fields[] = {
	FIELD(seq),	      FIELD(parent),	FIELD(time),	       FIELD(generation),
	FIELD(pause_us),      FIELD(wall_us),	FIELD(pages_resident), FIELD(pages_candidate),
	FIELD(pages_changed), FIELD(bytes_raw), FIELD(bytes_stored),
};
#define N_NUMBERS (sizeof(number_fields) / sizeof(number_fields[0]))

json_t *control_pack_snapshot(const struct snapshot_info *info)
{
	json_t *object = json_pack("{s:s, s:s, s:b, s:i, s:i}", "job", info->job, "tracker",
				   info->tracker, "final", info->final, "processes",
				   (int)info->processes, "threads", (int)info->threads);
	size_t i;

	for (i = 0; object && i < N_NUMBERS; i++) {
		uint64_t value;

		memcpy(&value, (const char *)info + number_fields[i].offset, sizeof(value));
		json_object_set_new(object, number_fields[i].name, json_integer((json_int_t)value));
	}
	return object;
}

int control_unpack_snapshot(json_t *object, struct snapshot_info *ret, struct err *err)
{
	struct snapshot_info info = {0};
	const char *job, *tracker;
	int final, processes, threads;
	size_t i;

	if (json_unpack(object, "{s:s, s:s, s:b, s:i, s:i}", "job", &job, "tracker", &tracker,
			"final", &final, "processes", &processes, "threads", &threads) < 0)
		return err_set(err, ERR_CORRUPT, "the watchdog's answer is not understood");
	snprintf(info.job, sizeof(info.job), "%s", job);
	snprintf(info.tracker, sizeof(info.tracker), "%s", tracker);
	info.final = final;
	info.processes = (uint32_t)processes;
	info.threads = (uint32_t)threads;
	for (i = 0; i < N_NUMBERS; i++) {
		json_t *number = json_object_get(object, number_fields[i].name);
		uint64_t value = (uint64_t)json_integer_value(number);

		if (!json_is_integer(number))
			return err_set(err, ERR_CORRUPT, "the watchdog's answer lacks '%s'",
				       number_fields[i].name);
		memcpy((char *)&info + number_fields[i].offset, &value, sizeof(value));
	}
	*ret = info;
	return 0;
}
