// Scenarios of the C client with a server; programs_test.go says how to run them.

#include <nats/nats.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { patience = 60000 }; // ms

static atomic_int reconnected, told, closed;

static void fail(const char *what, natsStatus s) {
  fprintf(stderr, "%s: %s\n%s\n", what, natsStatus_GetText(s), nats_GetLastError(NULL));
  exit(1);
}

#define MUST(call)                    \
  do {                                \
    natsStatus status_ = (call);      \
    if (status_ != NATS_OK)           \
      fail(#call, status_);           \
  } while (0)

static void onReconnect(natsConnection *nc, void *arg) { (void)nc, (void)arg, reconnected++; }
static void onLameDuck(natsConnection *nc, void *arg) { (void)nc, (void)arg, told++; }
static void onClosed(natsConnection *nc, void *arg) { (void)nc, (void)arg, closed++; }

// await waits for a callback to have been called so many times.
static void await(const char *what, atomic_int *calls, int times) {
  for (int ms = 0; *calls < times; ms += 5) {
    if (ms > patience) {
      fprintf(stderr, "gave up waiting: %s\n", what);
      exit(1);
    }
    nats_Sleep(5);
  }
}

static natsConnection *dial(int noEcho) {
  natsOptions *opts;
  natsConnection *nc;
  MUST(natsOptions_Create(&opts));
  MUST(natsOptions_SetURL(opts, getenv("SERVER")));
  MUST(natsOptions_SetName(opts, "scenarios.c"));
  MUST(natsOptions_SetTimeout(opts, patience));
  MUST(natsOptions_SetMaxReconnect(opts, -1));
  MUST(natsOptions_SetReconnectWait(opts, 5));
  MUST(natsOptions_SetReconnectJitter(opts, 0, 0));
  MUST(natsOptions_SetNoEcho(opts, noEcho));
  MUST(natsOptions_SetReconnectedCB(opts, onReconnect, NULL));
  MUST(natsOptions_SetLameDuckModeCB(opts, onLameDuck, NULL));
  MUST(natsOptions_SetClosedCB(opts, onClosed, NULL));
  MUST(natsConnection_Connect(&nc, opts));
  natsOptions_Destroy(opts);
  return nc;
}

static natsConnection *nc, *other;

static natsSubscription *subscribe(natsConnection *c, const char *subject, const char *queue) {
  natsSubscription *sub;
  if (queue)
    MUST(natsConnection_QueueSubscribeSync(&sub, c, subject, queue));
  else
    MUST(natsConnection_SubscribeSync(&sub, c, subject));
  MUST(natsConnection_FlushTimeout(c, patience));
  return sub;
}

static void publish(const char *subject, const char *payload) {
  MUST(natsConnection_PublishString(other, subject, payload));
  MUST(natsConnection_FlushTimeout(other, patience));
}

// print prints the messages that a subscription has received, and ends it.
static void print(natsConnection *c, natsSubscription *sub) {
  uint64_t queued = 0;
  MUST(natsConnection_FlushTimeout(c, patience));
  MUST(natsSubscription_QueuedMsgs(sub, &queued));
  for (; queued > 0; queued--) {
    natsMsg *m;
    MUST(natsSubscription_NextMsg(&m, sub, patience));
    printf("[%.*s]", natsMsg_GetDataLength(m), natsMsg_GetData(m));
    natsMsg_Destroy(m);
  }
  natsSubscription_Destroy(sub);
}

static void plainAndWildcards(void) {
  const char *subjects[] = {"room.door", "room.*", "room.>", "*.door", ">"};
  natsSubscription *subs[5];
  for (int i = 0; i < 5; i++)
    subs[i] = subscribe(nc, subjects[i], NULL);
  publish("room.door", "open");
  publish("room.window", "");
  publish("room.door.lock", "locked");
  for (int i = 0; i < 5; i++) {
    printf(" %s ", subjects[i]);
    print(nc, subs[i]);
  }
}

static void queueGroup(void) {
  natsSubscription *a = subscribe(nc, "jobs", "workers"), *b = subscribe(other, "jobs", "workers");
  for (int i = 0; i < 100; i++)
    publish("jobs", "");
  uint64_t n = 0, m = 0;
  MUST(natsConnection_FlushTimeout(nc, patience));
  MUST(natsConnection_FlushTimeout(other, patience));
  MUST(natsSubscription_QueuedMsgs(a, &n));
  MUST(natsSubscription_QueuedMsgs(b, &m));
  printf("%d jobs, both worked %d", (int)(n + m), n > 0 && m > 0);
  natsSubscription_Destroy(a);
  natsSubscription_Destroy(b);
}

static void autoUnsubscribe(void) {
  natsSubscription *sub = subscribe(nc, "few", NULL);
  MUST(natsSubscription_AutoUnsubscribe(sub, 2));
  MUST(natsConnection_FlushTimeout(nc, patience));
  publish("few", "1");
  publish("few", "2");
  publish("few", "3");
  print(nc, sub);
}

static void answer(natsConnection *c, natsSubscription *sub, natsMsg *m, void *arg) {
  (void)sub, (void)arg;
  natsConnection_Publish(c, natsMsg_GetReply(m), natsMsg_GetData(m), natsMsg_GetDataLength(m));
  natsMsg_Destroy(m);
}

static void requests(void) {
  natsSubscription *service;
  natsMsg *m = NULL;
  MUST(natsConnection_Subscribe(&service, other, "echo", answer, NULL));
  MUST(natsConnection_FlushTimeout(other, patience));
  MUST(natsConnection_RequestString(&m, nc, "echo", "hello", patience));
  printf("%.*s; ", natsMsg_GetDataLength(m), natsMsg_GetData(m));
  natsMsg_Destroy(m);
  m = NULL;
  printf("to nobody: %s", natsStatus_GetText(natsConnection_RequestString(&m, nc, "nobody", "hello", patience)));
  natsSubscription_Destroy(service);
}

static void headers(void) {
  natsSubscription *sub = subscribe(nc, "with.headers", NULL);
  natsMsg *m;
  const char *value;
  MUST(natsMsg_Create(&m, "with.headers", NULL, "21\r\n", 4));
  MUST(natsMsgHeader_Set(m, "Unit", "°C"));
  MUST(natsConnection_PublishMsg(other, m));
  MUST(natsConnection_FlushTimeout(other, patience));
  natsMsg_Destroy(m);
  MUST(natsSubscription_NextMsg(&m, sub, patience));
  MUST(natsMsgHeader_Get(m, "Unit", &value));
  printf("Unit %s, %d bytes", value, natsMsg_GetDataLength(m));
  natsMsg_Destroy(m);
  natsSubscription_Destroy(sub);
}

static void noEcho(void) {
  natsConnection *deaf = dial(1);
  natsSubscription *sub = subscribe(deaf, "news", NULL);
  MUST(natsConnection_PublishString(deaf, "news", "mine"));
  MUST(natsConnection_FlushTimeout(deaf, patience));
  publish("news", "theirs");
  print(deaf, sub);
  natsConnection_Close(deaf);
  await("the connection is closed", &closed, 1);
  natsConnection_Destroy(deaf);
}

static void count(natsConnection *c, natsSubscription *sub, natsMsg *m, void *times) {
  (void)c, (void)sub, (*(atomic_int *)times)++;
  natsMsg_Destroy(m);
}

static void drain(void) {
  natsConnection *leaver = dial(0);
  natsSubscription *sub;
  atomic_int messages = 0;
  MUST(natsConnection_Subscribe(&sub, leaver, "news", count, &messages));
  MUST(natsConnection_FlushTimeout(leaver, patience));
  for (int i = 0; i < 100; i++)
    publish("news", "");
  int before = closed;
  MUST(natsConnection_DrainTimeout(leaver, patience));
  await("the drained connection is closed", &closed, before + 1);
  printf("%d messages, then closed", messages);
  natsSubscription_Destroy(sub);
  natsConnection_Destroy(leaver);
}

static void reconnect(void) {
  natsSubscription *plain = subscribe(nc, "news.*", NULL), *member = subscribe(nc, "jobs", "workers");
  reconnected = 0;
  printf("please restart\n");
  await("both connections are back", &reconnected, 2);
  MUST(natsConnection_FlushTimeout(nc, patience));
  publish("news.today", "a");
  publish("jobs", "b");
  printf("saw reconnect: ");
  print(nc, plain);
  print(nc, member);
}

static void lameDuck(void) {
  told = 0;
  printf("please go\n");
  await("both connections are told", &told, 2);
  natsSubscription *sub = subscribe(nc, "news", NULL);
  publish("news", "still here");
  printf("saw lame duck: ");
  print(nc, sub);
}

int main(void) {
  static const struct { const char *name; void (*run)(void); } scenarios[] = {
      {"plain and wildcards", plainAndWildcards}, {"queue group", queueGroup}, {"auto-unsubscribe", autoUnsubscribe},
      {"requests", requests}, {"headers", headers}, {"no echo", noEcho}, {"drain", drain},
      {NULL, reconnect}, {NULL, lameDuck}, // print their name after the server was asked for something
  };
  setvbuf(stdout, NULL, _IOLBF, 0);
  nc = dial(0);
  other = dial(0);
  for (size_t i = 0; i < sizeof scenarios / sizeof *scenarios; i++) {
    if (scenarios[i].name)
      printf("saw %s: ", scenarios[i].name);
    scenarios[i].run();
    printf("\n");
  }
  natsConnection_Destroy(nc);
  natsConnection_Destroy(other);
  nats_Close();
  return 0;
}
