/* pawl doctor PID: could it be saved as it is? */
#include <stdio.h>

#include "store/base/cleanup.h"
#include "tools/doctor.h"
#include "tools/objects.h"
#include "tools/report.h"
#include "watchdog/attached.h"

static void print_verdict(pid_t pid, size_t refused)
{
	if (refused)
		printf("\nprocess %d cannot be saved: %zu refused\n", pid, refused);
	else
		printf("\nprocess %d can be saved and recovered (pawl attach %d)\n", pid, pid);
}

static json_t *as_json(pid_t pid, const struct object_list *objects)
{
	json_t *o = json_object();

	json_object_set_new(o, "pid", json_integer(pid));
	json_object_set_new(o, "refused", json_integer((json_int_t)objects_refused(objects)));
	json_object_set_new(o, "objects", objects_json(objects));
	return o;
}

int doctor_process(pid_t pid, bool json, bool *ret_refused, struct err *err)
{
	struct object_list objects = {0};
	struct refusals refusals = {0};
	Snap__Snapshot *model = NULL;
	int result;

	if (attached_look(pid, &model, &refusals, err) < 0)
		return -1;
	result = objects_list(&objects, model, &refusals, err);
	if (result == 0) {
		*ret_refused = objects_refused(&objects) > 0;
		if (json) {
			report_print(as_json(pid, &objects));
		} else {
			objects_print(&objects, model);
			print_verdict(pid, objects_refused(&objects));
		}
	}
	objects_clear(&objects);
	refusals_clear(&refusals);
	snap__snapshot__free_unpacked(model, NULL);
	return result;
}
