"""Programs: each change as a generator that yields queries and is sent their rows.

`PROGRAMS` maps a change's type to its program. A program checks before it writes: a rule that refuses is
raised before the first write of that change.
Invariant: a program may be abandoned and run again from its start; it keeps nothing between runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from innkeeper.core import action_changes, administration, changes, control_changes, file_changes
from innkeeper.core.outcomes import Missing, Outcome, Repeated, Stale
from innkeeper.storage.programs import (
    actions,
    admins,
    audit,
    chat_logs,
    claims,
    commands,
    conversations,
    credits,
    deliveries,
    engines,
    erasures,
    files,
    injections,
    log_records,
    logs,
    queues,
    run_deletions,
    run_endings,
    runs,
    sessions,
    sources,
    tokens,
    workers,
    workspaces,
)
from innkeeper.storage.statements import Program

PROGRAMS: dict[type[changes.Change], Callable[[Any, changes.Fence | None], Program]] = {
    changes.AcceptRun: runs.accept,
    changes.BeginRun: queues.begin,
    changes.TakeQueued: queues.take,
    changes.ReleaseRun: workers.release,
    changes.RequestCancel: workers.cancel,
    changes.TakeDead: workers.take_dead,
    changes.KeepWorker: workers.keep,
    changes.RetireWorkers: workers.retire,
    changes.AcceptInjection: injections.accept,
    changes.DeliverInjections: injections.deliver,
    changes.KeepClaim: claims.keep,
    changes.ForgetClaims: claims.forget,
    changes.AppendEvents: logs.append,
    changes.EndRun: run_endings.end,
    changes.RecordCredits: run_endings.record_credits,
    changes.CreateSession: sessions.create,
    changes.UpdateSession: sessions.modify,
    changes.DeleteSession: sessions.remove,
    changes.DeleteRun: run_deletions.delete_run,
    changes.AppendMessages: conversations.append,
    changes.TakeDeliveries: deliveries.take,
    changes.SettleDelivery: deliveries.settle,
    action_changes.PauseRun: actions.pause,
    action_changes.ResumeRun: actions.resume,
    action_changes.TakeExpired: actions.take_expired,
    file_changes.ReserveBlobs: files.reserve,
    file_changes.KeepFile: files.keep,
    file_changes.DeleteFile: files.drop,
    file_changes.ForgetFiles: files.forget,
    file_changes.ChangeWorkspace: workspaces.change,
    file_changes.TakeRubbish: files.take_rubbish,
    file_changes.DropRubbish: files.drop_rubbish,
    control_changes.PublishEvent: commands.publish,
    control_changes.AcceptCommands: commands.accept,
    control_changes.TakeCommands: commands.take,
    control_changes.TakeDeadCommands: commands.take_dead,
    control_changes.EndCommand: commands.end,
    control_changes.ReleaseCommand: commands.release,
    control_changes.CancelCommand: commands.cancel,
    control_changes.AddTool: sources.add_tool,
    control_changes.RemoveTool: sources.remove_tool,
    control_changes.AddHandler: sources.add_handler,
    control_changes.RemoveHandlers: sources.remove_handlers,
    control_changes.SetState: sources.set_state,
    control_changes.CreateEngine: engines.create,
    control_changes.DeleteEngine: engines.remove,
    control_changes.CreateToken: tokens.create,
    control_changes.RevokeToken: tokens.revoke,
    control_changes.TouchTokens: tokens.touch,
    control_changes.KeepLogs: log_records.keep,
    control_changes.ForgetLogs: log_records.forget,
    administration.WriteAudit: audit.write,
    administration.SetBalance: credits.set_balance,
    administration.AddCredits: credits.add,
    administration.RemoveBalance: credits.remove,
    administration.RateUsage: credits.rate,
    administration.AddAdmin: admins.add,
    administration.RemoveAdmin: admins.remove,
    administration.DeriveChatLogs: chat_logs.derive,
    administration.CopiedChatLogs: chat_logs.copied,
    administration.ForgetChatLogs: chat_logs.forget,
    administration.ForgetToken: erasures.forget_token,
    administration.ForgetUser: erasures.forget_user,
}

_CHECK_BY_THEMSELVES = frozenset(
    {changes.AppendEvents, changes.EndRun, changes.DeliverInjections, changes.ReleaseRun, action_changes.PauseRun}
)


def call(batch: Sequence[changes.Change], fence: changes.Fence | None) -> Program:
    """The program of one call of the journal; it ends with a tuple of outcomes.

    What a claim finds to have been made before is not made again: then every outcome says so.
    """
    is_one = len(batch) == 1
    if fence is not None and not (is_one and type(batch[0]) in _CHECK_BY_THEMSELVES):
        rows = yield logs.holds(fence)
        if not rows:
            return (Stale(),) * len(batch)
    if is_one:
        return ((yield from PROGRAMS[type(batch[0])](batch[0], fence)),)
    outcomes: list[Outcome] = []
    for change in batch:
        if isinstance(change, administration.WriteAudit) and outcomes and isinstance(outcomes[-1], Missing):
            outcomes.append(outcomes[-1])
            continue
        outcome = yield from PROGRAMS[type(change)](change, fence)
        if isinstance(outcome, Repeated):
            return (outcome,) * len(batch)
        outcomes.append(outcome)
    return tuple(outcomes)
