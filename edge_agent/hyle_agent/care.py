"""Looking after what serves: self-tests, drift, calibration between requests, fallbacks, and the way back.

Every step on the device is one piece of work between two requests; service goes on.
"""

from __future__ import annotations

import logging
import math

from hyle_errors import HyleError
from hyle_substrates.driver import DeviceError

from hyle_agent.drift import DriftDetector
from hyle_agent.events import Events
from hyle_agent.fallbacks import Fallbacks
from hyle_agent.loading import Bundle, SlotLoader
from hyle_agent.models import Loaded, Model, Tested
from hyle_agent.policy import Policy
from hyle_agent.status import refusal_of
from hyle_agent.switch import Switch
from hyle_agent.trials import Trials

__all__ = ["Care"]

_LOG = logging.getLogger(__name__)


class Care:
    """Looks after models; called on the operator's thread only.

    Args:
        loader: Asks the device.
        switch: Takes models out of service, and back.
        fallbacks: Makes what stands in.
        trials: Judges slots on trial by what is found here.
        events: Told what happened.
        policy: What the operator decided.
    """

    def __init__(
        self,
        loader: SlotLoader,
        switch: Switch,
        fallbacks: Fallbacks,
        trials: Trials,
        events: Events,
        policy: Policy,
    ) -> None:
        self._loader, self._switch, self._fallbacks = loader, switch, fallbacks
        self._trials, self._events, self._policy = trials, events, policy

    def examine(self, model: Model, loaded: Loaded) -> Tested:
        """Run the golden vectors, and do what they call for.

        Raises:
            DeviceError: The device did not answer; a fallback stands in if there is one.
        """
        try:
            tested = self._tested(model, loaded)
        except DeviceError as error:
            self.lose(model, error.fault, error.message)
            raise
        if tested.passed:
            self._well(model, loaded, tested)
        else:
            self._ill(model, loaded, tested)
        return tested

    def lose(self, model: Model, fault: str, why: str) -> None:
        """Take in that the device cannot answer for a model: a fallback stands in, or the model is out of service."""
        if model.fault != fault:
            self._events.say("device-fault", model.name, why, fault=fault)
        model.fault = fault
        loaded = model.loaded.get(model.state.active)
        if loaded is None or not loaded.on_device:
            return
        self._replace(model, loaded, why)

    def stand_in(self, model: Model) -> None:
        """Let a fallback serve for an active slot that could not be loaded, if there is one and its files are whole."""
        if not self._fallbacks.wanted:
            return
        digest = model.state.slots[model.state.active].digest
        try:
            bundle = self._loader.unprogrammed(self._switch.folder(model), digest)
        except HyleError as error:
            _LOG.warning("%s has no fallback: %s", model.name, refusal_of(error).message)
            return
        self._replace(model, bundle, model.reason)

    def revive(self, model: Model) -> None:
        """Try again to load an active slot that could not be, and let it serve.

        Raises:
            HyleError: It still cannot.
        """
        loaded, tested = self._switch.ensure(model, model.state.active)
        self._well(model, loaded, tested)

    def _tested(self, model: Model, loaded: Loaded) -> Tested:
        """Test; who fails is calibrated once and tested again."""
        tested = self._loader.self_test(loaded)
        model.tested[loaded.digest] = tested
        if not tested.passed and self._policy.recalibrate:
            self._calibrate(model, loaded, f"the residual is {_words(tested)}")
            tested = self._loader.self_test(loaded)
            model.tested[loaded.digest] = tested
        return tested

    def _well(self, model: Model, loaded: Loaded, tested: Tested) -> None:
        self._note_fault(model, tested)
        if self._switch.back_in(model, loaded):
            self._events.say("recovery", model.name, f"the {loaded.substrate} answers again", residual=tested.residual)
        self._trials.judge(model, well=True)
        detector = self._detector(model)
        if detector is None or not loaded.on_device or model.loaded.get(model.state.active) is not loaded:
            return
        if detector.observe(tested.residual, tested.tolerance):
            message = f"the residual drifted to {_words(tested)}"
            self._events.say("drift-alarm", model.name, message, residual=tested.residual, limit=detector.limit)
            if self._policy.recalibrate:
                self._answer_drift(model, loaded)
            else:
                detector.restart()

    def _answer_drift(self, model: Model, loaded: Loaded) -> None:
        self._calibrate(model, loaded, "the device drifts")
        tested = model.tested[loaded.digest] = self._loader.self_test(loaded)
        if not tested.passed:
            self._ill(model, loaded, tested)

    def _ill(self, model: Model, loaded: Loaded, tested: Tested) -> None:
        self._note_fault(model, tested)
        named = f" ({tested.fault})" if tested.fault else ""
        why = f"the self-test's residual is {tested.residual:.3g}, {tested.tolerance:.3g} is allowed{named}"
        if model.serving is loaded:
            self._events.say("self-test-failed", model.name, why, residual=tested.residual, fault=tested.fault)
        if self._trials.fail(model, why):
            return
        self._replace(model, loaded, why)

    def _replace(self, model: Model, bundle: Bundle, why: str) -> None:
        """Let a fallback stand in, or nothing."""
        if model.serving is not None and model.serving is model.fallback:
            return
        if not self._fallbacks.wanted or not (bundle.manifest.layers or bundle.manifest.boxes):
            self._switch.out(model, why)
            return
        try:
            fallback = self._fallbacks.make(bundle, self._loader.described)
        except HyleError as error:
            self._switch.out(model, f"{why.rstrip('.')}; no fallback: {refusal_of(error).message}")
            return
        self._switch.stand_in(model, fallback, f"{why.rstrip('.')}; the {fallback.substrate} answers instead")
        self._events.say("fallback", model.name, model.reason, substrate=fallback.substrate)

    def _calibrate(self, model: Model, loaded: Loaded, why: str) -> None:
        self._loader.recalibrate(loaded)
        self._events.say("recalibration", model.name, f"calibrated, since {why}", calibration=loaded.calibration)
        if (detector := self._detector(model)) is not None:
            detector.restart()

    def _detector(self, model: Model) -> DriftDetector | None:
        if not (self._policy.false_alarm_s and self._policy.test_s):
            return None
        if model.drift is None or model.drift_of is not model.loaded.get(model.state.active):
            model.drift_of = model.loaded.get(model.state.active)
            model.drift = DriftDetector(max(2.0, self._policy.false_alarm_s / self._policy.test_s))
        return model.drift

    def _note_fault(self, model: Model, tested: Tested) -> None:
        fault = tested.fault or ("not a number" if math.isnan(tested.residual) else "")
        if fault and fault != model.fault:
            self._events.say("device-fault", model.name, f"the self-test finds the device {fault}", fault=fault)
        model.fault = fault


def _words(tested: Tested) -> str:
    return f"{tested.residual:.3g}, {tested.tolerance:.3g} is allowed"
