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
import org.edgehadanorm.core.SelfCheck;

/** Which bundles there are, what the chosen one is, and whether this device draws its golden picture. */
final class BundlesScreen implements Screen {
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
        BundlesContent content = new BundlesContent(state);
        add.setEnabled(content.canChange());
        check.setEnabled(content.canChange());
        Fields.visible(busy, content.bar().isPresent());
        Fields.show(progress, content.bar());
        Fields.say(status, content.status());
        Fields.visible(details, content.bundle().isPresent());
        Fields.visible(activity.findViewById(R.id.bundle_none), content.saysNone());
        if (state.isBusy() != shown.isBusy() || !state.names().equals(shown.names())
                || !state.bundle().equals(shown.bundle())) {
            showList(content);
            showDetails(content);
        }
        if (!state.check().equals(shown.check())) {
            showCheck(content);
        }
        shown = state;
    }

    private void showList(BundlesContent content) {
        list.removeAllViews();
        Optional<String> chosen = content.bundle().map(Bundle::name);
        for (String name : content.names()) {
            View row = LayoutInflater.from(activity).inflate(R.layout.row_bundle, list, false);
            RadioButton choice = (RadioButton) row.findViewById(R.id.choice);
            choice.setText(name);
            choice.setChecked(chosen.filter(name::equals).isPresent());
            choice.setEnabled(content.canChange());
            choice.setOnClickListener(view -> session.choose(name));
            View delete = row.findViewById(R.id.delete);
            delete.setContentDescription(activity.getString(R.string.delete_named, name));
            delete.setEnabled(content.canChange());
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

    private void showDetails(BundlesContent content) {
        content.facts().forEach(new Facts(activity, table)::add);
        Fields.visible(check, content.hasCheck());
    }

    private void showCheck(BundlesContent content) {
        Optional<SelfCheck.Result> last = content.check();
        Fields.visible(result, last.isPresent());
        Fields.visible(pictures, last.isPresent());
        Fields.say(result, content.verdict());
        last.ifPresent(now -> {
            ((ImageView) activity.findViewById(R.id.check_expected)).setImageDrawable(
                    Bitmaps.drawable(activity.getResources(), now.expected()));
            ((ImageView) activity.findViewById(R.id.check_drawn)).setImageDrawable(
                    Bitmaps.drawable(activity.getResources(), now.drawn()));
        });
    }
}
