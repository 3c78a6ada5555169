#include "store/wire/ask.h"

#include <stdlib.h>

#include "store/wire/convert.h"
#include "store/wire/wire.h"

static int send_request(struct wire_channel *ch, const struct wire_request *request,
			struct err *err)
{
	Wire__Request message = WIRE__REQUEST__INIT;
	struct wire_job_message job;
	int rc;

	if (wire_job_pack(request->job, &job, err) < 0)
		return -1;
	message.op = request->op;
	message.job = &job.job;
	message.version = request->version;
	message.seq = request->seq;
	if (request->token)
		message.token = (ProtobufCBinaryData){WIRE_TOKEN, (uint8_t *)request->token};
	if (request->holder)
		message.holder = wire_text(request->holder);
	message.seqs = (uint64_t *)request->seqs;
	message.n_seqs = request->n_seqs;
	rc = wire_send_message(ch, WIRE_REQUEST, &message.base, err);
	free(job.texts);
	return rc < 0 ? -1 : wire_flush(ch, err);
}

int wire_ask(struct wire_channel *ch, const struct wire_request *request, Wire__Reply **ret,
	     struct err *err)
{
	Wire__Reply *reply;
	int rc = 0;

	if (send_request(ch, request, err) < 0 ||
	    wire_expect_message(ch, WIRE_REPLY, &wire__reply__descriptor, &reply, err) < 0)
		return -1;
	if (reply->error_kind)
		rc = wire_error_unpack(reply->error_kind, &reply->error, err);
	if (rc == 0 && ret)
		*ret = reply;
	else
		wire__reply__free_unpacked(reply, NULL);
	return rc;
}
