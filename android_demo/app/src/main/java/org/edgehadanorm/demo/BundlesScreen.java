package org.edgehadanorm.demo;

import android.app.Activity;
import android.app.AlertDialog;
import android.view.LayoutInflater;
import android.view.View;
import android.view.ViewGroup;
import android.widget.ImageView;
import android.widget.ProgressBar;
import android.widget.RadioButton;
import android.widget.TextView;
import java.util.Optional;

import org.edgehadanorm.core.Bundle;
import org.edgehadanorm.core.Program;
import org.edgehadanorm.core.SelfCheck;

/** Which bundles there are, what the chosen one is, and whether this device draws its golden picture. */
final class BundlesScreen implements Screen {
    private static final int KIBI = 1024;
    private final Activity activity;
    private final Session session;
    private final ViewGroup list;
    private final View add;
    private final View busy;
    private final ProgressBar progress;
    private final TextView status;
    private final View details;
    private final ViewGroup table;
    private final View check;
    private final TextView result;
    private final View pictures;
    /** What the list and the table show: they are filled again only with something else. */
    private State shown = State.FIRST;

    /** pick: lets a person choose a .zip file. */
    BundlesScreen(Activity activity, Session session, Runnable pick) {
        this.activity = activity;
        this.session = session;
        list = (ViewGroup) activity.findViewById(R.id.bundle_list);
        add = activity.findViewById(R.id.add_bundle);
        busy = activity.findViewById(R.id.bundle_busy);
        progress = (ProgressBar) activity.findViewById(R.id.bundle_progress);
        status = (TextView) activity.findViewById(R.id.bundle_status);
        details = activity.findViewById(R.id.bundle_details);
        table = (ViewGroup) activity.findViewById(R.id.bundle_table);
        check = activity.findViewById(R.id.check);
        result = (TextView) activity.findViewById(R.id.check_result);
        pictures = activity.findViewById(R.id.check_pictures);
        add.setOnClickListener(view -> pick.run());
        check.setOnClickListener(view -> session.check());
        activity.findViewById(R.id.bundle_cancel).setOnClickListener(view -> session.cancel());
    }

    @Override
    public void show(State state) {
        boolean checking = state.is(State.Kind.RUNNING, State.Task.CHECK);
        boolean importing = state.kind() == State.Kind.IMPORTING;
        add.setEnabled(!state.isBusy());
        check.setEnabled(!state.isBusy());
        Fields.visible(busy, importing || checking);
        Fields.visible(details, state.bundle().isPresent());
        Fields.visible(activity.findViewById(R.id.bundle_none), state.names().isEmpty() && !importing);
        showProgress(state, checking);
        if (state.isBusy() != shown.isBusy() || !state.names().equals(shown.names())
                || !state.bundle().equals(shown.bundle())) {
            showList(state);
            state.bundle().ifPresent(this::showDetails);
        }
        if (!state.check().equals(shown.check())) {
            showCheck(state.check());
        }
        shown = state;
    }

    private void showProgress(State state, boolean checking) {
        progress.setIndeterminate(state.total() <= 0);
        progress.setMax((int) Math.max(1, checking ? state.total() : state.total() / KIBI));
        progress.setProgress((int) (checking ? state.done() : state.done() / KIBI));
        if (checking) {
            status.setText(state.total() < 0 ? activity.getString(R.string.phase_prepare)
                    : activity.getString(R.string.measuring, state.done(), state.total()));
        } else {
            status.setText(activity.getString(state.total() < 0 ? R.string.unpacking : R.string.verifying,
                    Format.bytes(state.done())));
        }
    }

    private void showList(State state) {
        list.removeAllViews();
        Optional<String> chosen = state.bundle().map(Bundle::name);
        for (String name : state.names()) {
            View row = LayoutInflater.from(activity).inflate(R.layout.row_bundle, list, false);
            RadioButton choice = (RadioButton) row.findViewById(R.id.choice);
            choice.setText(name);
            choice.setChecked(chosen.filter(name::equals).isPresent());
            choice.setEnabled(!state.isBusy());
            choice.setOnClickListener(view -> session.choose(name));
            View delete = row.findViewById(R.id.delete);
            delete.setContentDescription(activity.getString(R.string.delete_named, name));
            delete.setEnabled(!state.isBusy());
            delete.setOnClickListener(view -> confirmDelete(name));
            list.addView(row);
        }
    }

    private void confirmDelete(String name) {
        new AlertDialog.Builder(activity).setTitle(activity.getString(R.string.delete_question, name))
                .setMessage(R.string.delete_message)
                .setPositiveButton(R.string.delete, (dialog, which) -> session.delete(name))
                .setNegativeButton(R.string.keep, null).show();
    }

    private void showDetails(Bundle bundle) {
        Facts facts = new Facts(activity, table);
        facts.add(activity.getString(R.string.fact_family), bundle.family());
        facts.add(activity.getString(R.string.fact_recipe), bundle.recipe());
        facts.add(activity.getString(R.string.fact_picture),
                activity.getString(R.string.pixels, bundle.width(), bundle.height()));
        facts.add(activity.getString(R.string.fact_size), Format.bytes(bundle.bytes()));
        facts.add(activity.getString(R.string.fact_memory), Format.bytes(MemoryCheck.needed(bundle)));
        facts.add(activity.getString(R.string.fact_generator), bundle.generator());
        facts.add(activity.getString(R.string.fact_licence), bundle.licence());
        for (Program program : bundle.programs().values()) {
            for (String note : program.notes()) {
                facts.add(program.role(), note);
            }
        }
        Fields.visible(check, bundle.golden().isPresent());
    }

    private void showCheck(Optional<SelfCheck.Result> last) {
        Fields.visible(result, last.isPresent());
        Fields.visible(pictures, last.isPresent());
        last.ifPresent(now -> {
            result.setText(activity.getString(now.passed() ? R.string.check_passed : R.string.check_failed,
                    Format.decibels(now.psnrDb()), Format.decibels(now.needed())));
            ((ImageView) activity.findViewById(R.id.check_expected)).setImageDrawable(
                    Bitmaps.drawable(activity.getResources(), now.expected()));
            ((ImageView) activity.findViewById(R.id.check_drawn)).setImageDrawable(
                    Bitmaps.drawable(activity.getResources(), now.drawn()));
        });
    }
}
