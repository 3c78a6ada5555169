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

json_t *control_pack_status(const struct job_status *status)
{
	const struct interval_choice *c = &status->interval;
	json_t *object = json_object();

	json_object_set_new(object, "state", json_string(status->state));
	json_object_set_new(object, "interval_ns", json_integer((json_int_t)c->interval_ns));
	json_object_set_new(object, "interval_reason", json_integer(c->reason));
	json_object_set_new(object, "cost_measured", json_boolean(c->measured));
	json_object_set_new(object, "cost_s", json_real(c->cost_s));
	json_object_set_new(object, "mtbf_s", json_real(c->mtbf_s));
	if (status->next_ns != UINT64_MAX)
		json_object_set_new(object, "next_ns", json_integer((json_int_t)status->next_ns));
	return object;
}

int control_unpack_status(json_t *object, struct job_status *ret, struct err *err)
{
	struct job_status status = {.next_ns = UINT64_MAX};
	struct interval_choice *c = &status.interval;
	json_int_t interval, next = -1;
	const char *state;
	int reason, measured;

	if (json_unpack(object, "{s:s, s:I, s:i, s:b, s:F, s:F, s?:I}", "state", &state, "interval_ns",
			&interval, "interval_reason", &reason, "cost_measured", &measured, "cost_s",
			&c->cost_s, "mtbf_s", &c->mtbf_s, "next_ns", &next) < 0 ||
	    interval < 0 || reason < INTERVAL_FIXED || reason > INTERVAL_CEILING)
		return err_set(err, ERR_CORRUPT, "the watchdog's answer is not understood");
	snprintf(status.state, sizeof(status.state), "%s", state);
	c->interval_ns = (uint64_t)interval;
	c->reason = (enum interval_reason)reason;
	c->measured = measured;
	if (next >= 0)
		status.next_ns = (uint64_t)next;
	*ret = status;
	return 0;
}
